// From failures to their cause: which target, what it said, since when.

import { get } from "./api.js";
import { when, without } from "./words.js";

const LOOKED_AT = 5; // apps whose beginning of trouble is asked for
const FETCHED = 300; // failures that are looked through for it
const GAP = 120000; // ms without a failure between two troubles
const RECENT = 60000; // ms
const MOSTLY = 0.6;
const ALL = 0.995;

const VERDICTS = ["ok", "denied"]; // reasons that a hook was meant to have

const at = (call) => new Date(call.time).getTime();

/** Whether a hook went wrong: among the failures are also verdicts that stop nothing or whose answer was repaired. */
const wentWrong = (call) => !VERDICTS.includes(call.reason);

/** The most frequent of these values, and its share; null where there is none. */
function commonest(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const [first] = [...counts].sort((one, other) => other[1] - one[1]);
  return first ? { value: first[0], share: first[1] / values.length } : null;
}

/** Failures of the same kind together, the latest kind first: `{call, count}` with the newest call of each. */
export function kinds(failures) {
  const found = new Map();
  for (const call of failures) {
    const key = [call.app, call.upstream, call.target, call.reason, call.error].join("\n");
    const kind = found.get(key);
    if (kind) kind.count += 1;
    else found.set(key, { key, call, count: 1 });
  }
  return [...found.values()];
}

/** Knows since when each app has trouble. */
export class Diagnosis {
  #since = new Map();

  /** Take note of the apps that have trouble now; asks the journal once for each when it begins. */
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
      const { calls, matched } = await get(`/api/calls?${new URLSearchParams({ app: name, failures: "1", limit: String(FETCHED) })}`);
      const wrong = calls.filter(wentWrong);
      let first = wrong[0];
      for (const call of wrong) {
        if (at(first) - at(call) > GAP) break;
        first = call;
      }
      const whole = first !== wrong.at(-1) || matched <= calls.length;
      if (first && this.#since.has(name)) this.#since.set(name, { time: first.time, before: !whole });
    } catch {
      this.#since.delete(name); // asked again with the next sample
    }
  }

  /** What can be said of an app's failures: `{where, since}`, at which target with which error, and since when. */
  of(name, failures) {
    const wrong = failures.filter((call) => call.app === name && wentWrong(call));
    const [newest] = wrong;
    const recent = wrong.filter((call) => at(newest) - at(call) < RECENT);
    const target = commonest(recent.map((call) => call.target));
    const error = commonest(recent.map((call) => call.error));
    const words = [];
    const there = target?.value && target.share >= MOSTLY;
    if (there) words.push(`${target.share >= ALL ? "all" : "mostly"} at ${target.value}`);
    if (error?.value && error.share >= MOSTLY) words.push(`“${without(target?.value, error.value)}”`);
    return { where: words.join(", "), target: there ? target.value : null, upstream: newest?.upstream ?? null, since: this.#since.get(name) ?? null };
  }
}

/** The earliest of these, in words. */
export function sinceOf(all) {
  const [first] = all.filter(Boolean).sort((one, other) => (one.time < other.time ? -1 : 1));
  return first ? `${first.before ? "since before" : "since"} ${when(first.time)}` : "";
}
