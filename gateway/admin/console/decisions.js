// The list of decisions: filters, following, and the latest failures on the first view.

import { get } from "./api.js";
import { kinds } from "./diagnosis.js";
import { byId, h, keyed, setText } from "./dom.js";
import { scoped, showsAll } from "./fleet.js";
import { decisionNote } from "./insights.js";
import { REASONS, VERDICTS, clock, dateAndClock, decidedBy, grouped, isFailure, ms, plural, reasonColour, reasonLabel, when } from "./words.js";

const PAGE = 100;
const FOLLOWED = 200; // rows kept while following
const MOST = 1000; // rows kept at most
const LATEST = 200; // failures kept for the first view
const KINDS = 6;
const FIELDS = ["q", "app", "verdict", "reason", "source", "since", "until", "failures"]; // of the form
const TIMES = ["since", "until"];
const TRIES = 20; // pages without a match that are asked for, one after the other
const LINK_FILTERS = { call_id: "call", session_id: "session", request_id: "request", method: "method", upstream: "upstream", target: "target", rule: "rule", shadow: "candidate", ineffective: "rejections the media server ignores", repaired: "repaired answers", since: "since", until: "until" }; // by links only
const HAS = { ineffective: (decision) => Boolean(decision.ineffective || decision.ignored_fields), repaired: (decision) => Boolean(decision.repaired) };
const SEARCHED = ["call_id", "session_id", "request_id", "caller", "callee", "error"];
const NUMBER = /^\S{6,}$/; // may be a whole phone number, by which the gateway finds decisions that show it masked
const REFRESH_AFTER = 2000; // ms between two requests when the stream skipped decisions

let filters = {};
let decisions = [];
let held = null; // decisions in the journal
let matched = null;
let next = null; // cursor of the older ones; undefined where only the last row says where they begin
let oldest = null; // how far back it looked
let searched = null; // the history, as the gateway describes it
let incomplete = []; // who gave no answer, as text
let following = true;
let waiting = 0; // new decisions while the list is paused
let skipped = 0;
let unsure = false; // whether a decision came that only the gateway can match with the filters
let refreshed = 0;
let latestRequest = 0;
let problem = "";
let failures = [];
let dirty = true;

const decisionKey = (decision) => `${decision.request_id} ${decision.time} ${decision.worker}`;
const rowKey = (decision) => `${decisionKey(decision)} ${decision.shadow?.outcome ?? ""}`; // painted again when its candidate has answered

/** The decision with this request id, if the list has it. */
export const findDecision = (id) => decisions.find((decision) => decision.request_id === id) ?? failures.find((decision) => decision.request_id === id);

/** The URL hash of the list with its filters. */
export const listHash = () => {
  const query = new URLSearchParams(filters).toString();
  return query ? `#/decisions?${query}` : "#/decisions";
};

/** A moment as the form's fields have it; null for an age such as 5m. */
function localTime(text) {
  const at = new Date(text ?? "");
  if (Number.isNaN(at.getTime()) || /^[\d.]+$/.test(text)) return null;
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

/** Show the list with these filters (URLSearchParams); asks the gateway if they have changed. */
export function filterBy(parameters) {
  const wanted = {};
  for (const name of new Set([...FIELDS, ...Object.keys(LINK_FILTERS)])) if (parameters.get(name)) wanted[name] = parameters.get(name);
  const same = JSON.stringify(wanted) === JSON.stringify(filters);
  filters = wanted;
  const form = byId("filters");
  for (const name of FIELDS) {
    const field = form.elements[name];
    if (field.type === "checkbox") field.checked = wanted[name] === "1";
    else if (document.activeElement !== field) field.value = (TIMES.includes(name) ? localTime(wanted[name]) : wanted[name]) ?? "";
  }
  paintLinkFilters();
  if (!same || !refreshed) refresh();
}

/** Fetch the newest decisions again. */
export async function refresh() {
  const number = ++latestRequest;
  refreshed = Date.now();
  try {
    const answer = await page({}, () => number === latestRequest);
    if (number !== latestRequest) return;
    ({ held, matched } = answer);
    decisions = answer.decisions;
    waiting = 0;
    skipped = 0;
    unsure = false;
    problem = "";
  } catch (error) {
    if (number !== latestRequest) return;
    problem = error.status ? error.message : "The gateway does not answer.";
  }
  dirty = true;
  paintDecisions();
  setText(byId("decisions-announced"), byId("decisions-state").textContent); // announced here only, not with each new decision
}

/** A page that begins there; where a request found nothing and did not get to the end, as far as `wanted()` says, the next. */
async function page(from, wanted) {
  let answer;
  for (let tries = 0; tries < TRIES; tries++) {
    answer = await get(scoped(`/api/decisions?${new URLSearchParams({ ...filters, ...from, limit: String(PAGE) })}`));
    if (answer.decisions.length || answer.next === null || !wanted()) break;
    from = { cursor: answer.next };
  }
  if (wanted()) {
    ({ next, oldest, history: searched } = answer);
    incomplete = silent(answer);
  }
  return answer;
}

/** Whose decisions an answer lacks. */
function silent({ incomplete: workers = [], replicas = [] }) {
  return [
    ...workers.map((pid) => `worker ${pid}`),
    ...replicas.filter((replica) => replica.error).map((replica) => `gateway ${replica.name} (${replica.error})`),
    ...replicas.flatMap((replica) => (replica.incomplete ?? []).map((pid) => `worker ${pid} of gateway ${replica.name}`)),
  ];
}

async function older() {
  const last = decisions.at(-1);
  setFollowing(false);
  const number = ++latestRequest;
  try {
    const answer = await page(next === undefined ? { until: last.time } : { cursor: next }, () => number === latestRequest);
    if (number !== latestRequest) return;
    const known = new Set(decisions.map(decisionKey));
    const fresh = answer.decisions.filter((decision) => !known.has(decisionKey(decision)));
    decisions = [...decisions, ...fresh].slice(0, MOST);
  } catch (error) {
    problem = error.message;
  }
  dirty = true;
  paintDecisions();
}

/** The latest failures, for the first view. */
export async function refreshFailures() {
  try {
    failures = (await get(scoped(`/api/decisions?failures=1&limit=${LATEST}`))).decisions;
    paintFailures();
  } catch {
    // console.js reports the connection
  }
}

/** Add a decision from the stream. */
export function add(decision) {
  const key = decisionKey(decision);
  if (isFailure(decision) && !failures.some((other) => decisionKey(other) === key)) failures = [decision, ...failures].slice(0, LATEST);
  if (filters.q && NUMBER.test(filters.q) && (decision.caller || decision.callee)) unsure = true;
  if (filters.shadow) unsure = true; // a candidate answers later; only the gateway can match it
  if (!matches(decision) || decisions.some((other) => decisionKey(other) === key)) return; // already fetched
  if (matched !== null) matched += 1;
  dirty = true;
  if (!following) {
    waiting += 1;
    return;
  }
  const place = decisions.findIndex((other) => other.time <= decision.time); // sent when the hook ends, listed by when it began
  decisions.splice(place < 0 ? decisions.length : place, 0, decision);
  if (decisions.length > FOLLOWED) {
    decisions.length = FOLLOWED;
    next = undefined;
  }
}

/** Count decisions that the stream skipped. */
export function skip(count) {
  skipped += count;
  dirty = true;
}

function matches(decision) {
  for (const [name, wanted] of Object.entries(filters)) {
    if (name === "q") {
      const text = wanted.toLowerCase();
      if (!SEARCHED.some((field) => String(decision[field] ?? "").toLowerCase().includes(text))) return false;
    } else if (name === "failures") {
      if (!isFailure(decision)) return false;
    } else if (name in HAS) {
      if (!HAS[name](decision)) return false;
    } else if (name === "shadow") {
      return false;
    } else if (name === "since" || name === "until") {
      continue; // new decisions are after any `since`; for `until`, see below
    } else if (String(decision[name] ?? "") !== wanted) return false;
  }
  return !filters.until;
}

/** Once a second, or when the view is shown: paint changes, fetch what the stream skipped. */
export function tickDecisions(visible) {
  if (following && visible && ((skipped && Object.keys(filters).length) || unsure || showsAll()) && Date.now() - refreshed > REFRESH_AFTER) refresh();
  if (visible) paintDecisions();
}

/** Follow or pause. */
function setFollowing(follow) {
  following = follow;
  const button = byId("follow");
  button.dataset.following = String(follow);
  button.textContent = follow ? "Pause" : "Follow";
}

// --- painting ---

/** Paint the list, if anything in it is new. */
export function paintDecisions() {
  if (!dirty) return;
  dirty = false;
  const parts = [];
  if (problem) parts.push(problem);
  else if (held !== null) {
    const some = Object.keys(filters).length > 0;
    const found = Math.max(matched, decisions.length);
    parts.push(some ? `${plural(found, "decision")}${next ? " or more" : ""} found` : `the newest ${plural(decisions.length, "decision")}`);
    if (some && oldest) parts.push(`searched back to ${when(oldest)}`);
    if (searched?.error) parts.push(`the history was not searched: ${searched.error}`);
    if (following) parts.push("following");
    if (!following) parts.push(waiting ? `paused, ${grouped(waiting)} new` : "paused");
    if (following && skipped && !some) parts.push(`${plural(skipped, "hook")} skipped (too fast to display). Pause or filter.`);
    if (incomplete.length) parts.push(`no answer from ${incomplete.join(", ")}: ${incomplete.length > 1 ? "their" : "its"} decisions are missing`);
  }
  setText(byId("decisions-state"), parts.join(" · "));
  const empty = byId("decisions-empty");
  empty.hidden = decisions.length > 0 || held === null;
  setText(empty, emptyText());
  byId("decisions-more").hidden = next === null || decisions.length >= MOST;
  keyed(byId("decisions"), decisions, rowKey, newRow, () => {});
}

function emptyText() {
  if (!Object.keys(filters).length) return "No decisions yet.";
  if (next) return "No matching decision so far.";
  const limit = searched?.configured ? "" : " The journal keeps only the most recent ones, and no history is configured.";
  return `No matching decision since ${oldest ? dateAndClock(oldest) : "the start"}.${limit} Search the log for older hooks.`;
}

function verdictBadge(decision) {
  const failed = isFailure(decision);
  return h("span", { class: `badge verdict-${decision.verdict} ${failed ? "failed" : ""}` }, VERDICTS[decision.verdict] ?? decision.verdict);
}

function newRow(decision) {
  const failed = isFailure(decision);
  const note = decisionNote(decision);
  const by = decidedBy(decision);
  const why = failed
    ? [h("span", { class: `chip chip-${reasonColour(decision.reason)}` }, reasonLabel(decision.reason)), " ", [decision.error, note].filter(Boolean).join(" · ")]
    : [h("span", { class: "faint" }, [by, note].filter(Boolean).join(" · "))];
  const attempts = (decision.attempts ?? []).length;
  return h(
    "tr",
    { class: failed ? "failed" : null, role: "row" },
    h("th", { scope: "row", role: "rowheader", class: "time" }, h("a", { href: `#/decisions/${encodeURIComponent(decision.request_id)}`, title: `${dateAndClock(decision.time)}, request ${decision.request_id}` }, clock(decision.time, true))),
    h("td", { role: "cell", class: "what" }, h("b", {}, decision.app), h("span", { class: "faint" }, decision.method)),
    h("td", { role: "cell", class: "id" }, decision.call_id ?? decision.session_id ?? "–"),
    h("td", { role: "cell" }, verdictBadge(decision)),
    h("td", { role: "cell", class: "why-cell" }, ...why),
    h("td", { role: "cell", class: "target-cell" }, decision.target ?? "–", attempts > 1 ? h("span", { class: "faint" }, ` ${attempts} attempts`) : null, decision.replica ? h("span", { class: "faint" }, ` at ${decision.replica}`) : null),
    h("td", { role: "cell", class: "number" }, ms(decision.duration_ms)),
  );
}

/** The error; with the target, if the error does not name it. */
function failureText(decision) {
  const { target, error } = decision;
  const text = error || decisionNote(decision);
  return !target || text.includes(target) ? text : [target, text].filter(Boolean).join(": ");
}

/** The failures known here, newest first. */
export const latestFailures = () => failures;

/** Paint the latest failures on the first view, grouped by kind. */
export function paintFailures() {
  byId("failures-empty").hidden = failures.length > 0;
  keyed(
    byId("failures"),
    kinds(failures).slice(0, KINDS),
    (kind) => kind.key,
    ({ decision }) =>
      h(
        "li",
        {},
        h("a", {}, h("time"), " ", h("b", {}, decision.app)),
        h("span", { class: `chip chip-${reasonColour(decision.reason)}` }, reasonLabel(decision.reason)),
        h("span", { class: "count" }),
        h("span", { class: "cause" }, failureText(decision)),
      ),
    (item, { decision, count }) => {
      const [link, , times] = item.children;
      link.setAttribute("href", `#/decisions/${encodeURIComponent(decision.request_id)}`);
      link.firstChild.setAttribute("datetime", decision.time);
      link.firstChild.title = dateAndClock(decision.time);
      setText(link.firstChild, when(decision.time));
      setText(times, count > 1 ? `${grouped(count)} times` : "once");
      times.title = `among the last ${plural(failures.length, "failure")}`;
    },
  );
}

function paintLinkFilters() {
  const box = byId("narrowed");
  const narrowed = Object.keys(LINK_FILTERS).filter((name) => filters[name] && !(TIMES.includes(name) && localTime(filters[name])));
  box.hidden = narrowed.length === 0;
  box.replaceChildren(
    ...narrowed.map((name) => {
      const rest = { ...filters };
      delete rest[name];
      return h("span", { class: "narrow" }, `${LINK_FILTERS[name]} `, name in HAS ? null : h("b", {}, filters[name]), h("a", { href: `#/decisions?${new URLSearchParams(rest)}`, "aria-label": `Remove the filter ${LINK_FILTERS[name]}` }, "✕"));
    }),
  );
}

/** Offer the known apps as suggestions. */
export function suggestApps(names) {
  byId("app-names").replaceChildren(...names.slice(0, 1000).map((name) => h("option", { value: name })));
}

/** Set up the form and the list; called once. */
export function setUpDecisions() {
  const form = byId("filters");
  form.elements.reason.append(...Object.keys(REASONS).map((reason) => h("option", { value: reason }, reasonLabel(reason))));
  let timer = 0;
  const apply = () => {
    const isShown = (name) => FIELDS.includes(name) && !(TIMES.includes(name) && !localTime(filters[name])); // an age is none of the form's
    const wanted = new URLSearchParams(Object.entries(filters).filter(([name]) => !isShown(name)));
    for (const name of FIELDS) {
      const field = form.elements[name];
      const value = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value.trim();
      if (value) wanted.set(name, TIMES.includes(name) ? new Date(value).toISOString() : value);
    }
    filterBy(wanted);
    history.replaceState(null, "", listHash());
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(apply, 250);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    apply();
  });
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    document.activeElement?.blur();
    location.hash = "#/decisions";
    filterBy(new URLSearchParams());
  });
  byId("follow").addEventListener("click", () => {
    setFollowing(!following);
    if (following) refresh();
    else {
      dirty = true;
      paintDecisions();
    }
  });
  byId("decisions-more").addEventListener("click", older);
  byId("decisions").addEventListener("click", (event) => {
    if (event.target.closest("a") || String(getSelection())) return; // a click on a link, or a text selection
    event.target.closest("tr")?.querySelector("a")?.click();
  });
}
