// The view Spool: what waits for its delivery, for whom, since when; dead letters; the store.

import { get, post } from "./api.js";
import { confirmAction } from "./actions.js";
import { byId, h, keyed, setText } from "./dom.js";
import { bytes, grouped, plural, rate, roughly, when } from "./words.js";

const PAGE = 100;
const MOST = 1000; // rows of events kept at most
const SHOWN = 200; // rows of the backlogs

/** What to write where there is no store. */
const EXAMPLE = `store: {url: "sqlite:///var/lib/wcs-gateway/store.db"}
defaults:
  spool: {max_age: 24h, max_size: 1GiB, attempts: 10}`;

let spool = null;
let events = [];
let next = null; // cursor of the next page
let listed = "dead"; // or "waiting"
let narrowed = {}; // app, upstream, call_id
let latest = 0;
let problem = "";

/** Fetch the state of the spool and return it. */
export async function fetchSpool() {
  spool = await get("/api/spool");
  return spool;
}

/** What the first view should say about it: entries as its other troubles. */
export function spoolProblems(known) {
  if (!known?.store.configured) return [];
  const found = [];
  if (!known.store.up) found.push({ level: "bad", store: true, name: "Store", text: `is down: events are not kept${known.store.error ? ` (${known.store.error})` : ""}`, link: "#/spool" });
  if (known.events) found.push({ level: "warn", name: "Spool", text: `${plural(known.events, "event")} wait for delivery, the oldest for ${roughly(known.oldest_age_seconds)}${known.paused ? "; redelivery is paused" : ""}`.replace(/^1 event wait/, "1 event waits"), link: "#/spool" });
  if (known.dead) found.push({ level: "warn", name: "Spool", text: `${plural(known.dead, "dead letter")}: the backend could not process ${known.dead === 1 ? "it" : "them"}`, link: "#/spool?events=dead" });
  return found;
}

// --- the state in a sentence ---

function sentence({ store, events: waiting, dead, paused, oldest_age_seconds: age, change_per_second: change, empty_in_seconds: empty }) {
  if (!store.configured) return { level: "unknown", text: "No store is configured: an event whose backend is down is lost" };
  if (!store.up) return { level: "bad", text: "The store is down: events are not kept, and nothing is redelivered", note: store.error };
  const notes = [];
  if (dead) notes.push(`${plural(dead, "dead letter")} below`);
  if (!waiting) return { level: dead ? "warn" : "good", text: paused ? "Redelivery is paused; no event waits" : dead ? "No event waits for delivery" : "No event waits: all were delivered", note: notes.join(", ") };
  const text = `${plural(waiting, "event")} ${waiting === 1 ? "waits" : "wait"} for delivery, the oldest for ${roughly(age)}`;
  if (paused) notes.unshift("redelivery is paused");
  else if (empty !== null) notes.unshift(`empty in about ${roughly(Math.max(1, empty))} at this rate`);
  else if (change * 60 >= 1) notes.unshift(`${grouped(Math.round(change * 60))} more each minute`);
  return { level: "warn", text, note: notes.join(", ") };
}

/** Events per second more or less. */
function changeText(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  return value < 0 ? `−${rate(-value)}` : `+${rate(value)}`;
}

const emptyText = (backlog) => (backlog.events === 0 ? "–" : backlog.paused ? "paused" : backlog.empty_in_seconds === null ? "not in sight" : roughly(Math.max(1, backlog.empty_in_seconds)));

/** Paint the view. */
export function paintSpool() {
  if (!spool) return;
  const said = sentence(spool);
  byId("spool-health").dataset.level = said.level;
  setText(byId("spool-summary"), said.text);
  setText(byId("spool-note"), said.note ?? "");
  byId("spool-note").hidden = !said.note;
  const { configured, up } = spool.store;
  byId("spool-none").hidden = configured;
  setText(byId("spool-example"), EXAMPLE);
  byId("spool-parts").hidden = !configured || !up;
  if (!configured || !up) return;
  paintTiles();
  const button = byId("spool-pause");
  setText(button, spool.paused ? "Resume all redelivery …" : "Pause all redelivery …");
  setText(byId("spool-store"), storeText(spool.store));
  paintBacklogs("spool-upstreams", spool.upstreams, (each) => each.upstream, "upstream");
  paintBacklogs("spool-apps", spool.apps, (each) => each.app, "app");
  paintEvents();
}

const storeText = (store) =>
  [`Store: ${store.engine}, up`, store.spool_bytes === null ? null : `spool ${bytes(store.spool_bytes)}`, store.history_bytes === null ? null : `history ${bytes(store.history_bytes)}${store.history_oldest ? ` since ${when(store.history_oldest)}` : ""}`]
    .filter(Boolean)
    .join(" · ");

function paintTiles() {
  const tiles = [
    { name: "Waiting", value: grouped(spool.events), note: bytes(spool.bytes), level: spool.events ? "warn" : "" },
    { name: "Oldest", value: roughly(spool.oldest_age_seconds), note: spool.oldest ? `since ${when(spool.oldest)}` : "no event waits" },
    { name: "Change per second", value: changeText(spool.change_per_second), note: spool.change_per_second < 0 ? "more delivered than kept" : spool.change_per_second > 0 ? "more kept than delivered" : "steady" },
    { name: "Empty in", value: spool.events ? emptyText(spool) : "–", note: "at this rate" },
    { name: "Dead letters", value: grouped(spool.dead), note: "failed at every attempt", level: spool.dead ? "bad" : "" },
  ];
  keyed(
    byId("spool-tiles"),
    tiles,
    (tile) => tile.name,
    (tile) => h("div", {}, h("dt", {}, tile.name), h("dd", { class: "value" }), h("dd", { class: "note" })),
    (element, tile) => {
      element.dataset.level = tile.level ?? "";
      setText(element.children[1], tile.value);
      setText(element.children[2], tile.note);
    },
  );
}

// --- backlogs ---

function paintBacklogs(id, all, nameOf, kind) {
  byId(`${id}-empty`).hidden = all.length > 0;
  byId(`${id}-table`).hidden = all.length === 0;
  setText(byId(`${id}-count`), all.length > SHOWN ? `${SHOWN} of ${grouped(all.length)}, the largest first` : plural(all.length, kind));
  keyed(
    byId(id),
    all.slice(0, SHOWN),
    nameOf,
    (each) => newBacklog(nameOf(each), kind),
    (row, each) => paintBacklog(row, each, nameOf(each), kind),
  );
}

function newBacklog(name, kind) {
  const cell = (label) => h("td", { role: "cell", class: "number", "data-name": label });
  return h(
    "tr",
    { role: "row" },
    h("th", { scope: "row", role: "rowheader" }, h("a", { href: `#/spool?${new URLSearchParams({ events: "waiting", [kind]: name })}` }, name), h("span", { class: "badge" }), h("span", { class: "faint" })),
    cell("waiting"),
    cell("size"),
    cell("oldest"),
    kind === "upstream" ? cell("change/s") : null,
    kind === "upstream" ? cell("empty in") : null,
    cell("dead"),
    h("td", { role: "cell", class: "buttons" }, h("button", { type: "button", class: "small" })),
  );
}

function paintBacklog(row, each, name, kind) {
  const [head, ...cells] = row.children;
  const button = cells.pop().firstChild;
  const [, badge, note] = head.children;
  badge.hidden = !each.paused;
  badge.dataset.state = "partly";
  setText(badge, "paused");
  const attempt = each.events && !each.paused && new Date(each.next_attempt) > Date.now() ? `next attempt ${when(each.next_attempt)}` : "";
  setText(note, each.configured === false ? "no longer configured: drop its events, or bring the app back" : attempt);
  const values = [grouped(each.events), bytes(each.bytes), roughly(each.oldest_age_seconds)];
  if (kind === "upstream") values.push(changeText(each.change_per_second), emptyText(each));
  values.push(grouped(each.dead));
  cells.forEach((cell, at) => setText(cell, values[at]));
  cells.at(-1).classList.toggle("bad", each.dead > 0);
  setText(button, each.paused ? "Resume …" : "Pause …");
  button.setAttribute("aria-label", `${each.paused ? "Resume" : "Pause"} redelivery ${kind === "upstream" ? "to" : "of"} ${name}`);
  button.onclick = () => askToPause(!each.paused, { [kind]: name });
}

function askToPause(pause, scope) {
  const [[kind, name]] = Object.entries(scope).length ? Object.entries(scope) : [[null, null]];
  const what = kind === "upstream" ? `redelivery to ${name}` : kind === "app" ? `redelivery of ${name}` : "all redelivery";
  const query = new URLSearchParams(scope).toString();
  confirmAction({
    title: `${pause ? "Pause" : "Resume"} ${what}?`,
    text: [
      pause
        ? "Kept events wait until you resume, also across a restart. New events are still kept. Other hooks are not affected."
        : "Kept events are delivered again, in order, as fast as the backend allows.",
      pause ? "Events that reach spool.max_age meanwhile are dropped." : null,
    ],
    button: pause ? "Pause" : "Resume",
    path: `/api/spool/${pause ? "pause" : "resume"}${query ? `?${query}` : ""}`,
    done: (answer) => (answer.result === "unchanged" ? "Nothing changed." : `${what[0].toUpperCase()}${what.slice(1)} is ${answer.result}.`),
  });
}

// --- events ---

/** Show these events: of the address. */
export function showEvents(parameters) {
  const wanted = { app: parameters.get("app"), upstream: parameters.get("upstream"), call_id: parameters.get("call_id") };
  narrowed = Object.fromEntries(Object.entries(wanted).filter(([, value]) => value));
  listed = parameters.get("events") === "waiting" ? "waiting" : "dead";
  refreshEvents();
}

const eventQuery = (more = {}) => new URLSearchParams({ ...narrowed, dead: listed === "dead" ? "1" : "0", ...more });

/** Fetch the first page again, as long as no later one is shown. */
export async function refreshEvents() {
  if (!spool?.store.configured || !spool.store.up || events.length > PAGE) return;
  const number = ++latest;
  try {
    const answer = await get(`/api/spool/events?${eventQuery({ limit: String(PAGE) })}`);
    if (number !== latest) return;
    ({ events, next } = answer);
    problem = "";
  } catch (error) {
    if (number !== latest) return;
    problem = error.status ? error.message : "The gateway does not answer.";
  }
  paintEvents();
}

async function moreEvents() {
  const number = ++latest;
  try {
    const answer = await get(`/api/spool/events?${eventQuery({ limit: String(PAGE), cursor: String(next) })}`);
    if (number !== latest) return;
    events = [...events, ...answer.events].slice(0, MOST);
    next = answer.next;
  } catch (error) {
    problem = error.message;
  }
  paintEvents();
}

function paintEvents() {
  for (const name of ["dead", "waiting"]) {
    const link = byId(`spool-show-${name}`);
    link.setAttribute("href", `#/spool?${new URLSearchParams({ events: name, ...narrowed })}`);
    if (name === listed) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  const box = byId("spool-narrowed");
  box.hidden = Object.keys(narrowed).length === 0;
  box.replaceChildren(
    ...Object.entries(narrowed).map(([name, value]) => {
      const rest = Object.fromEntries(Object.entries(narrowed).filter(([other]) => other !== name));
      const label = name === "call_id" ? "call" : name;
      return h("span", { class: "narrow" }, `${label} `, h("b", {}, value), h("a", { href: `#/spool?${new URLSearchParams({ events: listed, ...rest })}`, "aria-label": `Remove the filter ${label}` }, "✕"));
    }),
  );
  setText(byId("spool-events-state"), problem);
  const empty = byId("spool-events-empty");
  empty.hidden = events.length > 0;
  setText(empty, listed === "dead" ? "No dead letters." : "No event waits.");
  byId("spool-events-table").hidden = events.length === 0;
  for (const id of ["spool-retry", "spool-drop"]) byId(id).hidden = events.length === 0;
  byId("spool-more").hidden = next === null || events.length >= MOST;
  keyed(byId("spool-events"), events, (event) => event.id, newEvent, paintEvent);
}

function newEvent(event) {
  const name = `${event.method} of ${event.app}, ${event.call_id ?? event.session_id ?? event.request_id}`;
  return h(
    "tr",
    { role: "row" },
    h("th", { scope: "row", role: "rowheader", class: "time" }, h("a", { href: `#/spool/${event.id}`, title: `event ${event.id}` }, when(event.received))),
    h("td", { role: "cell", class: "what" }, h("b", {}, event.app), h("span", { class: "faint" }, event.method)),
    h("td", { role: "cell", class: "id" }, event.call_id ?? event.session_id ?? "–"),
    h("td", { role: "cell", class: "why-cell" }),
    h("td", { role: "cell", class: "number", "data-name": "attempts" }),
    h(
      "td",
      { role: "cell", class: "buttons" },
      h("button", { type: "button", class: "small", "aria-label": `Retry ${name}`, onclick: () => askToRetry({ id: event.id }, "this event") }, "Retry …"),
      h("button", { type: "button", class: "small quiet", "aria-label": `Drop ${name}`, onclick: () => askToDrop({ id: event.id }, "this event") }, "Drop …"),
    ),
  );
}

function paintEvent(row, event) {
  const [, , , why, attempts] = row.children;
  setText(why, stateText(event));
  setText(attempts, grouped(event.attempts));
}

function stateText(event) {
  const error = event.last_error || event.error || event.cause.replaceAll("_", " ");
  if (event.state === "dead") return error;
  if (event.state === "queued") return `behind an earlier event of its call · ${error}`;
  return `${event.next_attempt ? `next attempt ${when(event.next_attempt)}` : "waits"} · ${error}`;
}

/** Send an action for many events, part by part, until all are done. */
async function inParts(action, query) {
  let events = 0;
  let cursor = null;
  do {
    const parameters = new URLSearchParams({ ...query, ...(cursor === null ? {} : { cursor: String(cursor) }) });
    const answer = await post(`/api/spool/${action}?${parameters}`);
    events += answer.events;
    cursor = answer.next ?? null;
  } while (cursor !== null);
  return { events };
}

function askToRetry(query, what) {
  confirmAction({
    title: `Retry ${what}?`,
    text: ["Delivery is tried again now, from the first attempt. A backend that processed an event without answering gets it twice: the Idempotency-Key is the same."],
    button: "Retry",
    path: `/api/spool/retry?${new URLSearchParams(query)}`,
    send: () => inParts("retry", query),
    done: (answer) => `${plural(answer.events, "event")} will be tried again now.`,
  });
}

function askToDrop(query, what) {
  confirmAction({
    title: `Drop ${what}?`,
    text: ["The backend never gets it, and it cannot be brought back. To keep a copy, run gateway spool export first."],
    danger: true,
    button: "Drop",
    path: `/api/spool/drop?${new URLSearchParams(query)}`,
    send: () => inParts("drop", query),
    done: (answer) => `${plural(answer.events, "event")} dropped.`,
  });
}

const listedQuery = () => Object.fromEntries(eventQuery());
const listedText = () => `${listed === "dead" ? "all dead letters" : "all waiting events"}${Object.keys(narrowed).length ? ` of ${Object.values(narrowed).join(", ")}` : ""}`;

// --- one event ---

/** Open a kept event. */
export async function openEvent(id) {
  const dialog = byId("kept");
  byId("kept-body").replaceChildren(h("p", { class: "empty" }, "Loading …"));
  if (!dialog.open) dialog.showModal();
  try {
    paintKept(await get(`/api/spool/events/${encodeURIComponent(id)}`));
  } catch (error) {
    byId("kept-body").replaceChildren(h("p", { class: "empty" }, error.status === 404 ? "This event is no longer kept: it was delivered or dropped." : `Could not be loaded: ${error.message}`));
  }
}

/** Close it, if it is open. */
export function closeEvent() {
  if (byId("kept").open) byId("kept").close();
}

function paintKept(event) {
  byId("kept-title").textContent = `${event.method} of ${event.app}`;
  const rows = [
    ["Event", event.id],
    ["Came", `${when(event.received)}, ${roughly(event.age_seconds)} ago`],
    ["Dropped at", event.state === "dead" ? null : when(event.expires)],
    ["Failures", event.attempts],
    ["Kept because", `${event.cause.replaceAll("_", " ")}${event.error ? `: ${event.error}` : ""}`],
    ["Call id", event.call_id],
    ["Session id", event.session_id],
    ["Request id", event.request_id],
    ["Caller", event.caller],
    ["Callee", event.callee],
    ["Upstream", event.upstream],
    ["Media server", event.client],
    ["Size", bytes(event.size)],
  ];
  byId("kept-body").replaceChildren(
    h("div", { class: `verdict ${event.state === "dead" ? "failed" : ""}`, "data-verdict": "reject" }, h("p", { class: "headline" }, { dead: "Dead letter", queued: "Waits behind an earlier event", waiting: "Waits for delivery" }[event.state]), event.last_error ? h("p", { class: "cause" }, event.last_error) : null),
    h("dl", { class: "facts" }, ...rows.filter(([, value]) => value !== null && value !== "").map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("span", {}, String(value)))))),
    h("h3", {}, event.masked ? "Body, numbers and secrets masked" : "Body"),
    h("pre", { tabindex: "0", "aria-label": "Body", class: "cut" }, event.body ?? "Too large to be masked: gateway spool show prints it."),
    h("p", { class: "decision-links" }, h("a", { href: `#/decisions?${new URLSearchParams({ request_id: event.request_id })}` }, "Its decision"), event.call_id ? h("a", { href: `#/decisions?${new URLSearchParams({ call_id: event.call_id })}` }, "All decisions of this call") : null),
  );
}

/** Set up the buttons; called once. */
export function setUpSpool() {
  byId("spool-pause").addEventListener("click", () => askToPause(!spool?.paused, {}));
  byId("spool-retry").addEventListener("click", () => askToRetry(listedQuery(), listedText()));
  byId("spool-drop").addEventListener("click", () => askToDrop(listedQuery(), listedText()));
  byId("spool-more").addEventListener("click", moreEvents);
  byId("kept-close").addEventListener("click", () => byId("kept").close());
  byId("kept").addEventListener("click", (event) => {
    if (event.target === byId("kept")) byId("kept").close(); // a click outside
  });
  byId("kept").addEventListener("close", () => {
    if (/^#\/spool\/./.test(location.hash)) location.hash = `#/spool?${new URLSearchParams({ events: listed, ...narrowed })}`;
  });
}
