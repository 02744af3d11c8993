// Insights: ignored rejections, repaired answers, candidates, traffic split, rules, the recording.

import { get } from "./api.js";
import { bar } from "./charts.js";
import { byId, h, keyed, setText } from "./dom.js";
import { clock, grouped, ms, plural, rate } from "./words.js";

const SHOWN = 12; // lines, unless all are shown
const APPS = 50;
const LOOKED_AT = 3; // apps whose latest differences are fetched
const LATEST = 3; // of each
const COLOURS = ["ok", "overload", "timeout", "denied", "error_status", "bad_answer"];
const DIFFERING = ["verdict_differs", "body_differs"];
const KINDS = { bom: "a byte-order mark", before: "text before the object", after: "text after it" };

/** What was removed, in words: "bom+before" is a byte-order mark and text before the object. */
export const kindsInWords = (kinds) =>
  String(kinds)
    .split("+")
    .map((kind) => KINDS[kind] ?? kind)
    .join(", ");

/** How a candidate's answer compares, in words. */
export const OUTCOMES = {
  match: "gave the same answer",
  verdict_differs: "gave a different verdict",
  body_differs: "sent a different body",
  candidate_failed: "gave no verdict",
  dropped: "was not contacted: its queue was full",
};

const percent = (share) => (share === null || share === undefined ? "–" : `${(share * 100).toFixed(share > 0.999 || share < 0.001 ? 2 : 1).replace(/\.0+$/, "")} %`);
const rateNow = (figure) => `${rate(figure.per_second)}/s`;
const sinceStart = (figure) => `${grouped(figure.total)} since start`;
const decisionsLink = (filters) => `#/decisions?${new URLSearchParams(filters)}`;
const counted = (counts) =>
  Object.entries(counts)
    .map(([name, count]) => `${name.replaceAll("_", " ")} ${grouped(count)}`)
    .join(", ");

let all = false; // whether every line is shown
let latest = new Map(); // the last decisions where a candidate's answer differs, by app
let seen = new Map(); // how many there were at the last fetch

/** Fetch the insights, and the latest differences if there are new ones. */
export async function fetchInsights() {
  const found = await get(`/api/insights?apps=${APPS}`);
  const differing = found.apps.map((app) => [app.app, differences(app)]).filter(([, count]) => count > 0);
  for (const [app, count] of differing.slice(0, LOOKED_AT)) {
    if (seen.get(app) === count) continue;
    const { decisions } = await get(`/api/decisions?${new URLSearchParams({ app, shadow: "differs", limit: String(LATEST) })}`);
    latest.set(app, decisions);
    seen.set(app, count);
  }
  const still = new Set(differing.map(([app]) => app));
  latest = new Map([...latest].filter(([app]) => still.has(app)));
  seen = new Map([...seen].filter(([app]) => still.has(app)));
  return found;
}

const differences = (app) => app.shadow.reduce((sum, shadow) => sum + DIFFERING.reduce((all, name) => all + (shadow.outcomes[name] ?? 0), 0), 0);

/** The problems among the insights, for the list at the top of the page. */
export function insightProblems(insights) {
  const found = [];
  for (const app of insights?.apps ?? []) {
    if (app.ineffective.per_second) found.push({ name: app.app, text: `${rate(app.ineffective.per_second)} rejections/s ignored by the media server`, link: decisionsLink({ app: app.app, ineffective: "1" }) });
    if (app.ineffective_changes.per_second) found.push({ name: app.app, text: `${rate(app.ineffective_changes.per_second)} changed answers/s ignored by the media server`, link: decisionsLink({ app: app.app, ineffective: "1" }) });
    for (const failover of app.failovers) {
      if (failover.per_second) found.push({ name: app.app, text: `${failover.upstream} ${failoverCause(failover)}: ${rate(failover.per_second)} hooks/s fail over to another upstream`, link: decisionsLink({ app: app.app }) });
    }
  }
  if (insights?.recorded.dropped.per_second) found.push({ text: `The recording drops ${rate(insights.recorded.dropped.per_second)} hooks/s`, link: "#/gateway" });
  return found.map((trouble) => ({ ...trouble, level: "warn" }));
}

// --- the lines: {key, level, app, what, text, hint, link, parts, decisions} ---

/** How to make an app’s rejections stop calls, given its configuration. */
function remedyText({ ineffective, client_config: { mode, methods, outcomes } }) {
  const unnamed = Object.keys(ineffective.methods).filter((method) => !methods.includes(method)).sort().join(", ");
  const naming = `add ${unnamed} with restOnError: FAIL to rest_client_config.methods`;
  if (mode !== "enforce") return `Set rest_client_config: enforce for this app${unnamed ? ` and ${naming}` : ""}, or let its backend’s connect answer set restOnError=FAIL.`;
  if (unnamed) return `rest_client_config: enforce is on, but does not list these methods: ${naming}.`;
  if (outcomes.unreadable) return "Unreadable connect answers cannot be changed: fix the backend.";
  return "Sessions that connected before rest_client_config: enforce was on keep their settings until they reconnect.";
}

const OVERWRITE = "The session’s connect answer must set restPolicy=OVERWRITE and list the fields in restOverwrite for the method; rest_client_config: enforce adds both for the methods you list.";

function rejections(app) {
  const lines = [];
  const { total } = app.ineffective;
  const { outcomes } = app.client_config;
  const link = decisionsLink({ app: app.app, ineffective: "1" });
  const lacking = (outcomes.missing ?? 0) + (outcomes.unreadable ?? 0);
  const remedy = remedyText(app);
  if (total) {
    lines.push({ what: "Rejections the media server ignores:", level: app.ineffective.per_second ? "bad" : "warn", text: `${rateNow(app.ineffective)}, ${sinceStart(app.ineffective)} (${counted(app.ineffective.methods)}): the media server only logs them, and the calls continue.`, hint: remedy, link });
  } else if (lacking) {
    lines.push({ what: "Sessions where rejections stop no calls:", level: "warn", text: `${plural(lacking, "connect answer")} without restOnError=FAIL: rejections in ${lacking === 1 ? "that session" : "those sessions"} will not stop calls.`, hint: remedy, link: decisionsLink({ app: app.app, method: "connect" }) });
  }
  const changes = app.ineffective_changes;
  if (changes.total) lines.push({ what: "Changed answers the media server ignores:", level: changes.per_second ? "bad" : "warn", text: `${rateNow(changes)}, ${sinceStart(changes)} (${counted(changes.methods)}): it does not accept the fields that the fallback changed.`, hint: OVERWRITE, link: decisionsLink({ app: app.app, ineffective: "1" }) });
  const excluded = app.excluded.fields;
  if (Object.keys(excluded).length) lines.push({ what: "Fields missing from hooks:", level: "warn", text: `restExclude in connect answers removes fields that the gateway needs: ${counted(excluded)}.`, hint: "Rules that use the field never match, and a hook without sessionId or nodeId belongs to no session: remove the field from restExclude.", link: decisionsLink({ app: app.app, method: "connect" }) });
  if (outcomes.enforced) lines.push({ what: "Connect answers changed:", text: `${grouped(outcomes.enforced)} since start, so that rejections stop calls.`, link: decisionsLink({ app: app.app, method: "connect" }) });
  return lines;
}

function repairs(app) {
  if (!app.repaired.total) return [];
  const hint = "The backend’s PHP prints more than its answer. Each decision shows what was removed.";
  return [{ what: "Repaired answers:", level: "warn", text: `${rateNow(app.repaired)}, ${sinceStart(app.repaired)} (${counted(app.repaired.kinds)}).`, hint, link: decisionsLink({ app: app.app, repaired: "1" }) }];
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
      link: decisionsLink({ app: app.app, shadow: differing ? "differs" : failing ? "candidate_failed" : "match" }),
      decisions: differing ? (latest.get(app.app) ?? []).filter((decision) => decision.shadow?.upstream === shadow.upstream) : [],
    };
  });
}

function shares(app) {
  if (!app.split.length) return [];
  const text = app.split.map((share) => `${share.upstream} ${percent(share.share ?? share.share_of_total)}${share.weight === null ? "" : ` (weight ${share.weight})`}`).join(", ");
  const recently = app.split.some((share) => share.share !== null);
  return [{
    what: "Traffic split (actual):",
    text: `${text}${recently ? "" : ", since start: no hook now"}.`,
    hint: recently ? `Since start: ${app.split.map((share) => `${share.upstream} ${percent(share.share_of_total)}`).join(", ")}.` : "",
    parts: app.split.map((share, at) => ({ colour: COLOURS[at % COLOURS.length], share: share.share ?? share.share_of_total ?? 0 })),
    link: decisionsLink({ app: app.app }),
  }];
}

/** "is down", or which causes a failing upstream has. */
function failoverCause({ causes, per_second: now }) {
  if (Object.keys(causes).every((cause) => cause === "unreachable")) return now ? "is down" : "was down";
  return `${now ? "gives" : "gave"} no verdict (${counted(causes)})`;
}

const failovers = (app) =>
  app.failovers.map((failover) => ({ key: failover.upstream, what: `${failover.upstream} ${failoverCause(failover)}:`, level: failover.per_second ? "warn" : "", text: `${rate(failover.per_second)} hooks/s (${grouped(failover.total)} total) failed over to another upstream.`, link: decisionsLink({ app: app.app }) }));

const limits = (app) =>
  app.rate_limited.total ? [{ what: "Over the rate limit:", level: app.rate_limited.per_second ? "warn" : "", text: `${rateNow(app.rate_limited)}, ${sinceStart(app.rate_limited)}, decided by the fallback for overload.`, link: decisionsLink({ app: app.app, reason: "overload" }) }] : [];

const rules = (app) =>
  app.rules.map((rule) => ({ key: rule.rule, what: `Rule ${rule.rule}:`, text: `${rateNow(rule)}, ${plural(rule.total, "match", "matches")} since start.`, link: decisionsLink({ app: app.app, rule: rule.rule }) }));

function recording(recorded) {
  if (!recorded?.path && !recorded?.written.total && !recorded?.dropped.total) return [];
  const dropped = recorded.dropped.total ? `, ${grouped(recorded.dropped.total)} dropped` : "";
  return [{ app: "", what: "Recording", level: recorded.dropped.per_second ? "warn" : "", text: `${recorded.path ? `to ${recorded.path}: ` : "now off: "}${rateNow(recorded.written)}, ${grouped(recorded.written.total)} written since start${dropped}.` }];
}

function allLines(insights) {
  const lines = insights.apps.flatMap((app) => [rejections, repairs, failovers, shadows, shares, limits, rules].flatMap((kind) => kind(app)).map((line) => ({ ...line, app: app.app })));
  return [...lines, ...recording(insights.recorded)];
}

// --- painting ---

/** Paint the panel; it is hidden while there are no insights. */
export function paintInsights({ insights }) {
  if (!insights) return;
  const lines = allLines(insights);
  byId("insights-panel").hidden = lines.length === 0;
  const shown = all ? lines : lines.slice(0, SHOWN);
  const more = byId("insights-more");
  more.hidden = lines.length <= SHOWN;
  setText(more, all ? "Show fewer" : `Show all ${grouped(lines.length)}`);
  setText(byId("insights-count"), shown.length < lines.length ? `${SHOWN} of ${grouped(lines.length)}, by app, most important first` : "");
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
  setText(link.children[0], line.app);
  setText(link.children[1], line.what);
  setText(first.lastChild, line.text);
  share.hidden = !line.parts;
  const words = line.parts?.map((part) => percent(part.share)).join(", ");
  if (line.parts && share.dataset.words !== words) {
    share.dataset.words = words;
    share.replaceChildren(bar(line.parts, line.text));
  }
  hint.hidden = !line.hint;
  setText(hint, line.hint ?? "");
  list.hidden = !line.decisions?.length;
  keyed(list, line.decisions ?? [], (decision) => decision.request_id, newDecision, () => {});
}

function newDecision(decision) {
  const [first] = decision.shadow.differences;
  const words = first ? `${first.path}: ${first.ours ?? "nothing"} → ${first.theirs ?? "nothing"}` : (OUTCOMES[decision.shadow.outcome] ?? decision.shadow.outcome);
  return h("li", {}, h("a", { href: `#/decisions/${encodeURIComponent(decision.request_id)}` }, clock(decision.time), " ", decision.method), " ", h("code", {}, words));
}

// --- in a single decision ---

/** What was found in a connect answer, in words. */
const CLIENT_CONFIG = {
  ok: "It sets restOnError=FAIL as required: rejections in this session stop calls.",
  missing: "It lacks the required restOnError=FAIL: rejections in this session will not stop calls.",
  enforced: "The gateway added the required settings (rest_client_config: enforce): rejections in this session stop calls.",
  unreadable: "It could not be read, so its settings are unknown.",
};

/** The badge and advice for a rejection that the media server ignores; null for any other decision. */
export function ignoredRejection(decision) {
  if (!decision.ineffective) return null;
  return h("p", { class: "cause" }, h("span", { class: "badge bad" }, "the media server ignores this rejection"), " The session’s connect answer did not set restOnError=FAIL for this method. rest_client_config: enforce adds it for the methods you list.");
}

/** The parts that few decisions have. */
export function details(decision) {
  const parts = [];
  if (decision.client_config) parts.push(h("h3", {}, "The session’s settings"), h("p", {}, CLIENT_CONFIG[decision.client_config] ?? decision.client_config));
  if (decision.excluded) parts.push(h("h3", {}, "Fields missing from hooks"), h("p", { class: "cause" }, `Its restExclude removes fields that the gateway needs: ${decision.excluded}.`));
  if (decision.changed_fields) parts.push(h("h3", {}, "What the fallback changed"), h("p", { class: decision.ignored_fields ? "cause" : "" }, `${decision.changed_fields}.${decision.ignored_fields ? ` The media server ignores ${decision.ignored_fields}. ${OVERWRITE}` : ""}`));
  if (decision.repaired) parts.push(h("h3", {}, "What else the backend sent"), h("p", {}, `The gateway removed ${kindsInWords(decision.repaired)}:`), h("pre", { class: "cut" }, visibleText(decision.cut)));
  if (decision.shadow) parts.push(h("h3", {}, "The candidate’s answer"), ...candidate(decision.shadow));
  return parts;
}

/** Text with invisible characters spelt out. */
const visibleText = (text) => text.replaceAll("\ufeff", "⟨byte-order mark⟩") || "(white space)";

function candidate(shadow) {
  const status = shadow.status ? `HTTP ${shadow.status}, ` : "";
  const words = h("p", {}, `${shadow.upstream} ${OUTCOMES[shadow.outcome] ?? shadow.outcome}: ${status}${ms(shadow.duration_ms)}${shadow.error ? `, ${shadow.error}` : ""}`);
  if (!shadow.differences.length) return [words];
  const cell = (value) => h("td", { role: "cell" }, value === null ? h("span", { class: "faint" }, "nothing") : h("code", {}, value));
  const rows = shadow.differences.map(({ path, ours, theirs }) => h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, h("code", {}, path)), cell(ours), cell(theirs)));
  const head = ["Field", "Sent", "Candidate"].map((name) => h("th", { scope: "col", role: "columnheader" }, name));
  return [words, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Differences" }, h("table", { class: "diff", role: "table" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...head)), h("tbody", { role: "rowgroup" }, ...rows)))];
}

/** The note in a row of the list, beside or instead of an error. */
export function decisionNote(decision) {
  if (decision.ineffective) return "the media server ignores this rejection";
  if (decision.repaired) return `repaired: ${kindsInWords(decision.repaired)}`;
  if (decision.ignored_fields) return `the media server ignores ${decision.ignored_fields}`;
  if (decision.failed_over_from) return `${decision.failed_over_from} gave no verdict`;
  if (decision.shadow && DIFFERING.includes(decision.shadow.outcome)) return `${decision.shadow.upstream} ${OUTCOMES[decision.shadow.outcome]}`;
  return "";
}
