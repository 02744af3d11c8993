// From failures to their cause: which target, which error, since when.

import { get } from "./api.js";
import { scoped } from "./fleet.js";
import { when, withoutName } from "./words.js";

const LOOKED_AT = 5; // failing apps whose first failure is searched for
const FETCHED = 300; // failures searched for it
const GAP = 120000; // ms without a failure that separate two incidents
const RECENT = 60000; // ms
const MOSTLY = 0.6;
const ALL = 0.995;

const VERDICTS = ["ok", "denied"]; // reasons that are not failures

const at = (decision) => new Date(decision.time).getTime();

/** Whether the hook itself failed: the list of failures also has ineffective verdicts and repaired answers. */
const hookFailed = (decision) => !VERDICTS.includes(decision.reason);

/** The most frequent value and its share; null if there are no values. */
function mostFrequent(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const [first] = [...counts].sort((one, other) => other[1] - one[1]);
  return first ? { value: first[0], share: first[1] / values.length } : null;
}

/** Failures grouped by kind, the latest kind first: `{key, decision, count}` with the newest decision of each. */
export function kinds(failures) {
  const found = new Map();
  for (const decision of failures) {
    const key = [decision.app, decision.upstream, decision.target, decision.reason, decision.error].join("\n");
    const kind = found.get(key);
    if (kind) kind.count += 1;
    else found.set(key, { key, decision, count: 1 });
  }
  return [...found.values()];
}

/** Knows since when each app fails. */
export class Diagnosis {
  #since = new Map();

  /** Note which apps fail now; searches the journal once for each when its failures begin. */
  look(names, onNews) {
    for (const name of this.#since.keys()) if (!names.includes(name)) this.#since.delete(name);
    for (const name of names.slice(0, LOOKED_AT)) {
      if (this.#since.has(name)) continue;
      this.#since.set(name, null);
      this.#ask(name).then(onNews);
    }
  }

  async #ask(name) {
    try {
      const { decisions, matched } = await get(scoped(`/api/decisions?${new URLSearchParams({ app: name, failures: "1", limit: String(FETCHED) })}`));
      const failed = decisions.filter(hookFailed);
      let first = failed[0];
      for (const decision of failed) {
        if (at(first) - at(decision) > GAP) break;
        first = decision;
      }
      const complete = first !== failed.at(-1) || matched <= decisions.length;
      if (first && this.#since.has(name)) this.#since.set(name, { time: first.time, before: !complete });
    } catch {
      this.#since.delete(name); // retried with the next sample
    }
  }

  /** The common cause of an app's failures: `{where, target, upstream, since}`; `where` names target and error. */
  causeOf(name, failures) {
    const failed = failures.filter((decision) => decision.app === name && hookFailed(decision));
    const [newest] = failed;
    const recent = failed.filter((decision) => at(newest) - at(decision) < RECENT);
    const target = mostFrequent(recent.map((decision) => decision.target));
    const error = mostFrequent(recent.map((decision) => decision.error));
    const words = [];
    const there = target?.value && target.share >= MOSTLY;
    if (there) words.push(`${target.share >= ALL ? "all" : "mostly"} at ${target.value}`);
    if (error?.value && error.share >= MOSTLY) words.push(`“${withoutName(target?.value, error.value)}”`);
    return { where: words.join(", "), target: there ? target.value : null, upstream: newest?.upstream ?? null, since: this.#since.get(name) ?? null };
  }
}

/** The earliest of these times, in words. */
export function earliest(all) {
  const [first] = all.filter(Boolean).sort((one, other) => (one.time < other.time ? -1 : 1));
  return first ? `${first.before ? "since before" : "since"} ${when(first.time)}` : "";
}
