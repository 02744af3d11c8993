// The list of decisions: filters, following, and the latest failures on the first view.

import { get } from "./api.js";
import { kinds } from "./diagnosis.js";
import { byId, h, keyed, say } from "./dom.js";
import { remarkOf } from "./insights.js";
import { REASONS, SOURCES, VERDICTS, clock, dateAndClock, grouped, isFailure, ms, plural, reasonColour, reasonLabel, when } from "./words.js";

const PAGE = 100;
const FOLLOWED = 200; // rows kept while following
const MOST = 1000; // rows kept in all
const LATEST = 200; // failures kept for the first view
const KINDS = 6;
const FIELDS = ["q", "app", "verdict", "reason", "source", "failures"]; // of the form
const NARROWED = { call_id: "call", session_id: "session", request_id: "request", method: "method", upstream: "upstream", target: "target", rule: "rule", shadow: "candidate", ineffective: "refusals that stop nothing", repaired: "repaired answers", since: "since", until: "until" }; // by links only
const HAS = { ineffective: (call) => Boolean(call.ineffective || call.ignored_fields), repaired: (call) => Boolean(call.repaired) };
const SEARCHED = ["call_id", "session_id", "request_id", "caller", "callee", "error"];
const NUMBER = /^\S{6,}$/; // may be a whole phone number, by which the gateway finds calls that show it masked
const REFRESH_AFTER = 2000; // ms between two questions where the stream left decisions out

let filters = {};
let calls = [];
let held = null; // decisions in the journal
let matched = null;
let incomplete = [];
let following = true;
let waiting = 0; // new ones while the list stands still
let skipped = 0;
let unsure = false; // whether something came of which the gateway alone knows if it is wanted
let refreshed = 0;
let asking = 0; // the number of the latest question
let problem = "";
let failures = [];
let dirty = true;

const keyOf = (call) => `${call.request_id} ${call.time} ${call.worker}`;
const rowOf = (call) => `${keyOf(call)} ${call.shadow?.outcome ?? ""}`; // painted anew once its candidate has answered

/** The decision of the list with this request id, if it is there. */
export const knownCall = (id) => calls.find((call) => call.request_id === id) ?? failures.find((call) => call.request_id === id);

/** The hash of the list as it is filtered. */
export const listHash = () => {
  const query = new URLSearchParams(filters).toString();
  return query ? `#/decisions?${query}` : "#/decisions";
};

/** Show the list with these filters (URLSearchParams); asks the gateway where they are new. */
export function filterBy(parameters) {
  const wanted = {};
  for (const name of [...FIELDS, ...Object.keys(NARROWED)]) if (parameters.get(name)) wanted[name] = parameters.get(name);
  const same = JSON.stringify(wanted) === JSON.stringify(filters);
  filters = wanted;
  const form = byId("filters");
  for (const name of FIELDS) {
    const field = form.elements[name];
    if (field.type === "checkbox") field.checked = wanted[name] === "1";
    else if (document.activeElement !== field) field.value = wanted[name] ?? "";
  }
  paintNarrowed();
  if (!same || !refreshed) refresh();
}

/** Ask for the newest decisions again. */
export async function refresh() {
  const number = ++asking;
  refreshed = Date.now();
  try {
    const answer = await get(`/api/calls?${new URLSearchParams({ ...filters, limit: String(PAGE) })}`);
    if (number !== asking) return;
    take(answer);
    calls = answer.calls;
    waiting = 0;
    skipped = 0;
    unsure = false;
    problem = "";
  } catch (error) {
    if (number !== asking) return;
    problem = error.status ? error.message : "The gateway does not answer.";
  }
  dirty = true;
  paintCalls();
  say(byId("calls-said"), byId("calls-state").textContent); // not with each decision that comes
}

function take(answer) {
  ({ held, matched } = answer);
  incomplete = answer.incomplete ?? [];
}

async function older() {
  const last = calls.at(-1);
  if (!last) return;
  stand(false);
  try {
    const answer = await get(`/api/calls?${new URLSearchParams({ ...filters, until: last.time, limit: String(PAGE) })}`);
    const known = new Set(calls.map(keyOf));
    const fresh = answer.calls.filter((call) => !known.has(keyOf(call)));
    calls = [...calls, ...fresh].slice(0, MOST);
    byId("calls-more").hidden = fresh.length === 0;
  } catch (error) {
    problem = error.message;
  }
  dirty = true;
  paintCalls();
}

/** The latest failures, for the first view. */
export async function refreshFailures() {
  try {
    failures = (await get(`/api/calls?failures=1&limit=${LATEST}`)).calls;
    paintFailures();
  } catch {
    // the state of the connection is told elsewhere
  }
}

/** A decision has come by the stream. */
export function add(call) {
  const key = keyOf(call);
  if (isFailure(call) && !failures.some((other) => keyOf(other) === key)) failures = [call, ...failures].slice(0, LATEST);
  if (filters.q && NUMBER.test(filters.q) && (call.caller || call.callee)) unsure = true;
  if (filters.shadow) unsure = true; // a candidate answers later, and the gateway alone knows
  if (!matches(call) || calls.some((other) => keyOf(other) === key)) return; // asked for and told, both
  if (matched !== null) matched += 1;
  dirty = true;
  if (!following) {
    waiting += 1;
    return;
  }
  const place = calls.findIndex((other) => other.time <= call.time); // it is told when it ends, and listed by its beginning
  calls.splice(place < 0 ? calls.length : place, 0, call);
  if (calls.length > FOLLOWED) calls.length = FOLLOWED;
}

/** The stream has left decisions out. */
export function skip(count) {
  skipped += count;
  dirty = true;
}

function matches(call) {
  for (const [name, wanted] of Object.entries(filters)) {
    if (name === "q") {
      const text = wanted.toLowerCase();
      if (!SEARCHED.some((field) => String(call[field] ?? "").toLowerCase().includes(text))) return false;
    } else if (name === "failures") {
      if (!isFailure(call)) return false;
    } else if (name in HAS) {
      if (!HAS[name](call)) return false;
    } else if (name === "shadow") {
      return false;
    } else if (name === "since" || name === "until") {
      continue; // what comes now is after every since; an until is asked for again
    } else if (String(call[name] ?? "") !== wanted) return false;
  }
  return !filters.until;
}

/** Once a second, or when the view is shown: paint what has changed, ask for what was left out. */
export function tickCalls(visible) {
  if (following && visible && ((skipped && Object.keys(filters).length) || unsure) && Date.now() - refreshed > REFRESH_AFTER) refresh();
  if (visible) paintCalls();
}

/** Follow or stand still. */
function stand(follow) {
  following = follow;
  const button = byId("follow");
  button.dataset.following = String(follow);
  button.textContent = follow ? "Pause" : "Follow";
}

// --- painting ---

/** Paint the list, if anything in it is new. */
export function paintCalls() {
  if (!dirty) return;
  dirty = false;
  const parts = [];
  if (problem) parts.push(problem);
  else if (held !== null) {
    const some = Object.keys(filters).length > 0;
    parts.push(some ? `${plural(matched, "decision")} found` : `the newest ${plural(calls.length, "decision")}`);
    if (following) parts.push("following");
    if (!following) parts.push(waiting ? `paused: ${grouped(waiting)} new meanwhile` : "paused");
    if (following && skipped && !some) parts.push(`${grouped(skipped)} more came too fast to show: filter, or pause and look for them`);
    if (incomplete.length) parts.push(`without ${incomplete.map((pid) => `worker ${pid}`).join(", ")}, which did not answer`);
  }
  say(byId("calls-state"), parts.join(" · "));
  const empty = byId("calls-empty");
  empty.hidden = calls.length > 0 || held === null;
  say(empty, Object.keys(filters).length ? "No decision in the journal is like that. It holds the newest ones only; the log has all." : "No hook has been decided yet.");
  byId("calls-more").hidden = calls.length < PAGE || calls.length >= MOST;
  keyed(byId("calls"), calls, rowOf, newRow, () => {});
}

function verdictOf(call) {
  const failed = isFailure(call);
  return h("span", { class: `badge verdict-${call.verdict} ${failed ? "failed" : ""}` }, VERDICTS[call.verdict] ?? call.verdict);
}

function newRow(call) {
  const failed = isFailure(call);
  const remark = remarkOf(call);
  const by = call.source === "backend" ? "by the backend" : call.source === "rule" ? `by rule ${call.rule}` : (SOURCES[call.source] ?? call.source);
  const why = failed
    ? [h("span", { class: `chip chip-${reasonColour(call.reason)}` }, reasonLabel(call.reason)), " ", [call.error, remark].filter(Boolean).join(" · ")]
    : [h("span", { class: "faint" }, [by, remark].filter(Boolean).join(" · "))];
  const attempts = (call.attempts ?? []).length;
  return h(
    "tr",
    { class: failed ? "failed" : null, role: "row" },
    h("th", { scope: "row", role: "rowheader", class: "time" }, h("a", { href: `#/decisions/${encodeURIComponent(call.request_id)}`, title: `${dateAndClock(call.time)}, request ${call.request_id}` }, clock(call.time, true))),
    h("td", { role: "cell", class: "what" }, h("b", {}, call.app), h("span", { class: "faint" }, call.method)),
    h("td", { role: "cell", class: "id" }, call.call_id ?? call.session_id ?? "–"),
    h("td", { role: "cell" }, verdictOf(call)),
    h("td", { role: "cell", class: "why-cell" }, ...why),
    h("td", { role: "cell", class: "target-cell" }, call.target ?? "–", attempts > 1 ? h("span", { class: "faint" }, ` ${attempts} attempts`) : null),
    h("td", { role: "cell", class: "number" }, ms(call.duration_ms)),
  );
}

/** The error, and the target where the error does not name it itself. */
function whatAndWhere(call) {
  const { target, error } = call;
  const text = error || remarkOf(call);
  return !target || text.includes(target) ? text : [target, text].filter(Boolean).join(": ");
}

/** The newest failures that are known, newest first. */
export const latestFailures = () => failures;

/** Paint the first view's latest failures, those of a kind together. */
export function paintFailures() {
  byId("failures-empty").hidden = failures.length > 0;
  keyed(
    byId("failures"),
    kinds(failures).slice(0, KINDS),
    (kind) => kind.key,
    ({ call }) =>
      h(
        "li",
        {},
        h("a", {}, h("time"), " ", h("b", {}, call.app)),
        h("span", { class: `chip chip-${reasonColour(call.reason)}` }, reasonLabel(call.reason)),
        h("span", { class: "count" }),
        h("span", { class: "cause" }, whatAndWhere(call)),
      ),
    (item, { call, count }) => {
      const [link, , times] = item.children;
      link.setAttribute("href", `#/decisions/${encodeURIComponent(call.request_id)}`);
      link.firstChild.setAttribute("datetime", call.time);
      link.firstChild.title = dateAndClock(call.time);
      say(link.firstChild, when(call.time));
      say(times, count > 1 ? `${grouped(count)} times` : "once");
      times.title = `among the last ${plural(failures.length, "failure")}`;
    },
  );
}

function paintNarrowed() {
  const box = byId("narrowed");
  const narrowed = Object.keys(NARROWED).filter((name) => filters[name]);
  box.hidden = narrowed.length === 0;
  box.replaceChildren(
    ...narrowed.map((name) => {
      const rest = { ...filters };
      delete rest[name];
      return h("span", { class: "narrow" }, `${NARROWED[name]} `, name in HAS ? null : h("b", {}, filters[name]), h("a", { href: `#/decisions?${new URLSearchParams(rest)}`, "aria-label": `Do not filter by ${NARROWED[name]}` }, "✕"));
    }),
  );
}

/** Offer the known apps as suggestions. */
export function suggestApps(names) {
  byId("app-names").replaceChildren(...names.slice(0, 1000).map((name) => h("option", { value: name })));
}

/** Make form and list work; once. */
export function setUpCalls() {
  const form = byId("filters");
  form.elements.reason.append(...Object.keys(REASONS).map((reason) => h("option", { value: reason }, reasonLabel(reason))));
  let timer = 0;
  const apply = () => {
    const wanted = new URLSearchParams(Object.entries(filters).filter(([name]) => !FIELDS.includes(name)));
    for (const name of FIELDS) {
      const field = form.elements[name];
      const value = field.type === "checkbox" ? (field.checked ? "1" : "") : field.value.trim();
      if (value) wanted.set(name, value);
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
    stand(!following);
    if (following) refresh();
    else {
      dirty = true;
      paintCalls();
    }
  });
  byId("calls-more").addEventListener("click", older);
  byId("calls").addEventListener("click", (event) => {
    if (event.target.closest("a") || String(getSelection())) return; // a link of its own, or text being copied
    event.target.closest("tr")?.querySelector("a")?.click();
  });
}
