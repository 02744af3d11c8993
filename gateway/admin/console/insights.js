// What no general proxy knows: refusals that stop nothing, answers repaired, candidates, shares, rules, the recording.

import { get } from "./api.js";
import { bar } from "./charts.js";
import { byId, h, keyed, say } from "./dom.js";
import { clock, grouped, ms, plural, rate } from "./words.js";

const SHOWN = 12; // lines, unless all are asked for
const APPS = 50;
const LOOKED_AT = 3; // apps whose latest differences are asked for
const LATEST = 3; // of each
const COLOURS = ["ok", "overload", "timeout", "denied", "error_status", "bad_answer"];
const DIFFERING = ["verdict_differs", "body_differs"];
const KINDS = { bom: "a byte-order mark", before: "text before the object", after: "text after it" };

/** What was cut away, in words: "bom+before" is a byte-order mark and text before the object. */
export const kindsInWords = (kinds) =>
  String(kinds)
    .split("+")
    .map((kind) => KINDS[kind] ?? kind)
    .join(", ");

/** How a candidate's answer compares, in words. */
export const OUTCOMES = {
  match: "answered alike",
  verdict_differs: "has another verdict",
  body_differs: "has another body",
  candidate_failed: "gave no verdict",
  dropped: "was not asked: too much waited for it",
};

const percent = (share) => (share === null || share === undefined ? "–" : `${(share * 100).toFixed(share > 0.999 || share < 0.001 ? 2 : 1).replace(/\.0+$/, "")} %`);
const lately = (figure) => (figure.per_second ? `${rate(figure.per_second)}/s` : "none now");
const since = (figure) => `${grouped(figure.total)} since the start`;
const listOf = (filters) => `#/decisions?${new URLSearchParams(filters)}`;
const counted = (counts) =>
  Object.entries(counts)
    .map(([name, count]) => `${name.replaceAll("_", " ")} ${grouped(count)}`)
    .join(", ");

let all = false; // whether every line is shown
let latest = new Map(); // the last calls that a candidate saw otherwise, by app
let seen = new Map(); // how many of them there had been

/** Ask again, and for the last differences where there are new ones. */
export async function fetchInsights() {
  const found = await get(`/api/insights?apps=${APPS}`);
  const differing = found.apps.map((app) => [app.app, differences(app)]).filter(([, count]) => count > 0);
  for (const [app, count] of differing.slice(0, LOOKED_AT)) {
    if (seen.get(app) === count) continue;
    const { calls } = await get(`/api/calls?${new URLSearchParams({ app, shadow: "differs", limit: String(LATEST) })}`);
    latest.set(app, calls);
    seen.set(app, count);
  }
  const still = new Set(differing.map(([app]) => app));
  latest = new Map([...latest].filter(([app]) => still.has(app)));
  seen = new Map([...seen].filter(([app]) => still.has(app)));
  return found;
}

const differences = (app) => app.shadow.reduce((sum, shadow) => sum + DIFFERING.reduce((all, name) => all + (shadow.outcomes[name] ?? 0), 0), 0);

/** What an operator should know at a glance, for the sentence at the top of the page. */
export function insightTroubles(insights) {
  const found = [];
  for (const app of insights?.apps ?? []) {
    if (app.ineffective.per_second) found.push({ name: app.app, text: `${rate(app.ineffective.per_second)} refusals/s stop nothing: the media server ignores them`, link: listOf({ app: app.app, ineffective: "1" }) });
    if (app.ineffective_changes.per_second) found.push({ name: app.app, text: `${rate(app.ineffective_changes.per_second)} changed answers/s are ignored: the media server does not take the fields`, link: listOf({ app: app.app, ineffective: "1" }) });
    for (const failover of app.failovers) {
      if (failover.per_second) found.push({ name: app.app, text: `${failover.upstream} gives no verdict (${counted(failover.causes)}): ${rate(failover.per_second)} hooks/s go to another upstream`, link: listOf({ app: app.app }) });
    }
  }
  if (insights?.recorded.dropped.per_second) found.push({ text: `The recording drops ${rate(insights.recorded.dropped.per_second)} hooks/s`, link: "#/gateway" });
  return found.map((trouble) => ({ ...trouble, level: "warn" }));
}

// --- the lines: {key, level, app, what, text, hint, link, parts, calls} ---

/** What makes an app’s refusals count, by what its configuration already does about them. */
function remedyOf({ ineffective, client_config: { mode, methods, outcomes } }) {
  const unnamed = Object.keys(ineffective.methods).filter((method) => !methods.includes(method)).sort().join(", ");
  const naming = `name ${unnamed} with restOnError: FAIL under rest_client_config.methods`;
  if (mode !== "enforce") return `Set rest_client_config: enforce for this app${unnamed ? ` and ${naming}` : ""}, or have its backend’s answer to connect set restOnError=FAIL.`;
  if (unnamed) return `rest_client_config: enforce is in force, but for other methods: ${naming}.`;
  if (outcomes.unreadable) return "Answers to connect that cannot be read are not amended: mend them.";
  return "Sessions that connected before rest_client_config: enforce was in force keep what they have until they connect again.";
}

const OVERWRITE = "The session’s answer to connect must set restPolicy=OVERWRITE and list the fields in restOverwrite for the method; rest_client_config: enforce adds that where its methods name it.";

function refusals(app) {
  const lines = [];
  const { total } = app.ineffective;
  const { outcomes } = app.client_config;
  const link = listOf({ app: app.app, ineffective: "1" });
  const lacking = (outcomes.missing ?? 0) + (outcomes.unreadable ?? 0);
  const remedy = remedyOf(app);
  if (total) {
    lines.push({ what: "Refusals that stop nothing:", level: app.ineffective.per_second ? "bad" : "warn", text: `${lately(app.ineffective)}, ${since(app.ineffective)} (${counted(app.ineffective.methods)}): the media server only logs them, and the calls go on.`, hint: remedy, link });
  } else if (lacking) {
    lines.push({ what: "Answers to connect:", level: "warn", text: `${counted(outcomes)}: refusals in the sessions that lack it will stop nothing.`, hint: remedy, link: listOf({ app: app.app, method: "connect" }) });
  }
  const changes = app.ineffective_changes;
  if (changes.total) lines.push({ what: "Changed answers that are ignored:", level: changes.per_second ? "bad" : "warn", text: `${lately(changes)}, ${since(changes)} (${counted(changes.methods)}): the media server does not take the fields that the fallback changed.`, hint: OVERWRITE, link: listOf({ app: app.app, ineffective: "1" }) });
  const excluded = app.excluded.fields;
  if (Object.keys(excluded).length) lines.push({ what: "Fields left out of hooks:", level: "warn", text: `answers to connect whose restExclude leaves out what the gateway needs: ${counted(excluded)}.`, hint: "Rules that read the field are never met, and a hook without sessionId or nodeId is nobody’s: take the field out of restExclude.", link: listOf({ app: app.app, method: "connect" }) });
  if (outcomes.enforced) lines.push({ what: "Answers to connect amended:", text: `${grouped(outcomes.enforced)} since the start, so that refusals count.`, link: listOf({ app: app.app, method: "connect" }) });
  return lines;
}

function repairs(app) {
  if (!app.repaired.total) return [];
  const hint = "The PHP behind it prints more than its answer: each decision shows what was cut away.";
  return [{ what: "Answers repaired:", level: "warn", text: `${lately(app.repaired)}, ${since(app.repaired)} (${counted(app.repaired.kinds)}).`, hint, link: listOf({ app: app.app, repaired: "1" }) }];
}

function shadows(app) {
  return app.shadow.map((shadow) => {
    const differing = DIFFERING.some((name) => shadow.outcomes[name]);
    const failing = shadow.outcomes.candidate_failed > 0;
    const rest = Object.entries(shadow.outcomes).filter(([name]) => name !== "match");
    return {
      key: shadow.upstream,
      what: `Candidate ${shadow.upstream}`,
      level: differing || failing ? "warn" : "",
      text: `agrees in ${percent(shadow.agreement)} of ${plural(shadow.compared, "hook")}${rest.length ? `; ${counted(Object.fromEntries(rest))}` : ""}.`,
      parts: [
        { colour: "ok", share: (shadow.outcomes.match ?? 0) / (shadow.total || 1) },
        { colour: "unreachable", share: DIFFERING.reduce((sum, name) => sum + (shadow.outcomes[name] ?? 0), 0) / (shadow.total || 1) },
      ],
      link: listOf({ app: app.app, shadow: differing ? "differs" : failing ? "candidate_failed" : "match" }),
      calls: differing ? (latest.get(app.app) ?? []).filter((call) => call.shadow?.upstream === shadow.upstream) : [],
    };
  });
}

function shares(app) {
  if (!app.split.length) return [];
  const text = app.split.map((share) => `${share.upstream} ${percent(share.share ?? share.share_of_total)}${share.weight === null ? "" : ` (weight ${share.weight})`}`).join(", ");
  const recently = app.split.some((share) => share.share !== null);
  return [{
    what: "Shares as measured:",
    text: `${text}${recently ? "" : ", since the start: no hook lately"}.`,
    hint: recently ? `Since the start: ${app.split.map((share) => `${share.upstream} ${percent(share.share_of_total)}`).join(", ")}.` : "",
    parts: app.split.map((share, at) => ({ colour: COLOURS[at % COLOURS.length], share: share.share ?? share.share_of_total ?? 0 })),
    link: listOf({ app: app.app }),
  }];
}

const failovers = (app) =>
  app.failovers.map((failover) => ({ key: failover.upstream, what: `${failover.upstream} gave no verdict:`, level: failover.per_second ? "warn" : "", text: `${lately(failover)}, ${since(failover)} put to another upstream (${counted(failover.causes)}).`, link: listOf({ app: app.app }) }));

const limits = (app) =>
  app.rate_limited.total ? [{ what: "Past the rate limit:", level: app.rate_limited.per_second ? "warn" : "", text: `${lately(app.rate_limited)}, ${since(app.rate_limited)}, with the verdict for overload.`, link: listOf({ app: app.app, reason: "overload" }) }] : [];

const rules = (app) =>
  app.rules.map((rule) => ({ key: rule.rule, what: `Rule ${rule.rule}`, text: `met ${lately(rule)}, ${since(rule)} (${counted(rule.verdicts)}).`, link: listOf({ app: app.app, rule: rule.rule }) }));

function recording(recorded) {
  if (!recorded?.path && !recorded?.written.total && !recorded?.dropped.total) return [];
  const dropped = recorded.dropped.total ? `, ${grouped(recorded.dropped.total)} dropped` : "";
  return [{ app: "", what: "Recording", level: recorded.dropped.per_second ? "warn" : "", text: `${recorded.path ? `to ${recorded.path}: ` : "off now: "}${lately(recorded.written)}, ${grouped(recorded.written.total)} written since the start${dropped}.` }];
}

function linesOf(insights) {
  const lines = insights.apps.flatMap((app) => [refusals, repairs, failovers, shadows, shares, limits, rules].flatMap((kind) => kind(app)).map((line) => ({ ...line, app: app.app })));
  return [...lines, ...recording(insights.recorded)];
}

// --- painting ---

/** Paint the panel; where there is nothing to tell, there is none. */
export function paintInsights({ insights }) {
  if (!insights) return;
  const lines = linesOf(insights);
  byId("insights-panel").hidden = lines.length === 0;
  const shown = all ? lines : lines.slice(0, SHOWN);
  const more = byId("insights-more");
  more.hidden = lines.length <= SHOWN;
  say(more, all ? "Show fewer" : `Show all ${grouped(lines.length)}`);
  say(byId("insights-count"), shown.length < lines.length ? `${SHOWN} of ${grouped(lines.length)}, by app, what matters first` : "");
  keyed(byId("insights"), shown, (line) => `${line.app} ${line.what} ${line.key ?? ""}`, newLine, paintLine);
}

/** Show every line, or the first ones again. */
export function showAllInsights(state) {
  all = !all;
  paintInsights(state);
}

function newLine() {
  return h("li", {}, h("p", {}, h("a", {}, h("strong"), " ", h("span")), " ", h("span")), h("div", { class: "share-box" }), h("p", { class: "hint" }), h("ul", { class: "differing" }));
}

function paintLine(item, line) {
  const [first, share, hint, list] = item.children;
  const link = first.firstChild;
  item.className = line.level ?? "";
  if (line.link) link.setAttribute("href", line.link);
  say(link.children[0], line.app);
  say(link.children[1], line.what);
  say(first.lastChild, line.text);
  share.hidden = !line.parts;
  const words = line.parts?.map((part) => percent(part.share)).join(", ");
  if (line.parts && share.dataset.words !== words) {
    share.dataset.words = words;
    share.replaceChildren(bar(line.parts, line.text));
  }
  hint.hidden = !line.hint;
  say(hint, line.hint ?? "");
  list.hidden = !line.calls?.length;
  keyed(list, line.calls ?? [], (call) => call.request_id, newCall, () => {});
}

function newCall(call) {
  const [first] = call.shadow.differences;
  const words = first ? `${first.path}: ${first.ours ?? "nothing"} → ${first.theirs ?? "nothing"}` : (OUTCOMES[call.shadow.outcome] ?? call.shadow.outcome);
  return h("li", {}, h("a", { href: `#/decisions/${encodeURIComponent(call.request_id)}` }, clock(call.time), " ", call.method), " ", h("code", {}, words));
}

// --- in a decision's story ---

/** How an answer to connect was found, in words. */
const CLIENT_CONFIG = {
  ok: "It sets what is wanted: refusals in this session count.",
  missing: "It lacks the restOnError=FAIL that is wanted: refusals in this session stop nothing.",
  enforced: "The gateway added what was wanted to it (rest_client_config: enforce): refusals in this session count.",
  unreadable: "It could not be read: what it sets is not known.",
};

/** The badge and the advice for a refusal that stops nothing; null for any other decision. */
export function ignored(call) {
  if (!call.ineffective) return null;
  return h("p", { class: "cause" }, h("span", { class: "badge bad" }, "the media server ignores this refusal"), " The session’s answer to connect set no restOnError=FAIL for this method. rest_client_config: enforce adds it for those that its methods name.");
}

/** The parts of a story that few decisions have. */
export function remarks(call) {
  const parts = [];
  if (call.client_config) parts.push(h("h3", {}, "The session’s settings"), h("p", {}, CLIENT_CONFIG[call.client_config] ?? call.client_config));
  if (call.excluded) parts.push(h("h3", {}, "Fields left out of hooks"), h("p", { class: "cause" }, `Its restExclude leaves out what the gateway needs: ${call.excluded}.`));
  if (call.changed_fields) parts.push(h("h3", {}, "What the fallback changed"), h("p", { class: call.ignored_fields ? "cause" : "" }, `${call.changed_fields}.${call.ignored_fields ? ` The media server does not take ${call.ignored_fields}. ${OVERWRITE}` : ""}`));
  if (call.repaired) parts.push(h("h3", {}, "What the backend sent besides"), h("p", {}, `The gateway cut away ${kindsInWords(call.repaired)}:`), h("pre", { class: "cut" }, shownText(call.cut)));
  if (call.shadow) parts.push(h("h3", {}, "What the candidate said"), ...candidate(call.shadow));
  return parts;
}

/** Text with what cannot be seen in it spelt out. */
const shownText = (text) => text.replaceAll("\ufeff", "⟨byte-order mark⟩") || "(white space)";

function candidate(shadow) {
  const status = shadow.status ? `HTTP ${shadow.status}, ` : "";
  const words = h("p", {}, `${shadow.upstream} ${OUTCOMES[shadow.outcome] ?? shadow.outcome}: ${status}${ms(shadow.duration_ms)}${shadow.error ? `, ${shadow.error}` : ""}`);
  if (!shadow.differences.length) return [words];
  const cell = (value) => h("td", { role: "cell" }, value === null ? h("span", { class: "faint" }, "nothing") : h("code", {}, value));
  const rows = shadow.differences.map(({ path, ours, theirs }) => h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, h("code", {}, path)), cell(ours), cell(theirs)));
  const head = ["Where", "Went out", "Candidate"].map((name) => h("th", { scope: "col", role: "columnheader" }, name));
  return [words, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Where the answers differ" }, h("table", { class: "diff", role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)), h("tbody", { role: "rowgroup" }, ...rows)))];
}

/** What stands in a row of the list beside or instead of an error. */
export function remarkOf(call) {
  if (call.ineffective) return "the media server ignores this refusal";
  if (call.repaired) return `repaired: ${kindsInWords(call.repaired)}`;
  if (call.ignored_fields) return `the media server does not take ${call.ignored_fields}`;
  if (call.failed_over_from) return `${call.failed_over_from} gave no verdict`;
  if (call.shadow && DIFFERING.includes(call.shadow.outcome)) return `${call.shadow.upstream} ${OUTCOMES[call.shadow.outcome]}`;
  return "";
}
