// The fleet: the switch between this gateway and all, who is missing, and the view with every gateway.

import { get } from "./api.js";
import { byId, h, keyed, setText } from "./dom.js";
import { ago, dateAndClock, plural, when } from "./words.js";

const SCOPE_KEY = "wcs-gateway.scope";
const MOST = 50; // apps in an activity

let fleet = null; // the answer of /api/fleet
let scope = "one"; // or "all"
let missing = new Map(); // what each kind of answer lacks, as text by gateway

/** Whether the figures of all gateways are shown. */
export const showsAll = () => scope === "all";

/** Whether there is a fleet, so that an order holds at all gateways. */
export const inFleet = () => Boolean(fleet?.configured);

/** A path with its query, for the gateways that are shown. */
export const scoped = (path) => (showsAll() ? `${path}${path.includes("?") ? "&" : "?"}fleet=true` : path);

/** Fetch the fleet; returns it. */
export async function fetchFleet() {
  fleet = await get("/api/fleet");
  if (!fleet.configured) setScope("one");
  else note("fleet", fleet.replicas);
  paintSwitch();
  return fleet;
}

/** The activity and the upstreams of all gateways. */
export async function fetchAll() {
  const [sample, upstreams] = await Promise.all([get(scoped(`/api/activity?apps=${MOST}`)), get(scoped("/api/upstreams"))]);
  if (showsAll()) note("activity", sample.replicas);
  return { sample, upstreams };
}

/** Note which gateways are missing in an answer. */
function note(kind, replicas) {
  const lacking = new Map((replicas ?? []).filter((replica) => replica.error).map((replica) => [replica.name, replica.error]));
  missing.set(kind, lacking);
}

/** Every gateway that is missing, with the reason: `[[name, reason]]`. */
function missingNow() {
  return [...new Map([...missing.values()].flatMap((lacking) => [...lacking]))];
}

/** The gateways that are missing, as problems of the first view. */
export function fleetProblems() {
  if (!inFleet()) return [];
  const found = missingNow().map(([name, reason]) => ({ level: "bad", gateway: true, name: `Gateway ${name}`, text: reason, link: "#/fleet" }));
  if (!fleet.state.up) found.push({ level: "warn", text: `The state is down: this gateway works as if alone${fleet.state.error ? ` (${fleet.state.error})` : ""}`, link: "#/fleet" });
  const behind = fleet.replicas.filter((replica) => replica.behind.length);
  if (behind.length) found.push({ level: "warn", text: `Behind: ${behind.map((replica) => `${replica.name} (${replica.behind.join(", ")})`).join(", ")}`, link: "#/fleet" });
  return found;
}

// --- the switch ---

function setScope(wanted) {
  scope = wanted;
  missing = new Map([...missing].filter(([kind]) => kind === "fleet"));
  byId("scope").value = wanted;
  try {
    sessionStorage.setItem(SCOPE_KEY, wanted);
  } catch {
    // then it is kept for this page only
  }
}

function paintSwitch() {
  byId("scope").hidden = !inFleet();
  byId("nav-fleet").hidden = !inFleet();
}

/** Set up the switch; `changed()` is called when other gateways are shown. */
export function setUpFleet(changed) {
  try {
    scope = sessionStorage.getItem(SCOPE_KEY) === "all" ? "all" : "one";
  } catch {
    // nothing is kept
  }
  byId("scope").value = scope;
  byId("scope").addEventListener("change", () => {
    setScope(byId("scope").value);
    changed();
  });
}

// --- the view ---

function sentence() {
  const silent = missingNow().length;
  const behind = fleet.replicas.filter((replica) => replica.behind.length).length;
  if (silent) return { level: "bad", text: `${plural(silent, "gateway")} of ${fleet.replicas.length} without an answer` };
  if (!fleet.state.up) return { level: "warn", text: "The state is down: these gateways were known last" };
  if (behind) return { level: "warn", text: `${plural(behind, "gateway")} of ${fleet.replicas.length} behind` };
  return { level: "good", text: fleet.replicas.length === 1 ? "This gateway is the only one" : `${plural(fleet.replicas.length, "gateway")}, all alike` };
}

/** Paint the view. */
export function paintFleet() {
  const configured = inFleet();
  byId("fleet-parts").hidden = !configured;
  byId("fleet-health").dataset.level = configured ? sentence().level : "unknown";
  setText(byId("fleet-summary"), configured ? sentence().text : fleet ? "No state is configured: this gateway knows no others" : "Loading …");
  if (!configured) return;
  keyed(byId("replicas"), fleet.replicas, (replica) => replica.id, newReplica, paintReplica);
  byId("orders-empty").hidden = fleet.orders.length > 0;
  const lines = fleet.orders.map((order) => ({ key: JSON.stringify(order), text: `${orderText(order)} by an operator since ${when(order.time)}, ordered at ${order.by}` }));
  if (fleet.more_orders) lines.push({ key: "more", text: `and ${plural(fleet.more_orders, "more order")}` });
  keyed(
    byId("orders"),
    lines,
    (line) => line.key,
    () => h("li"),
    (item, line) => setText(item, line.text),
  );
}

function orderText({ order, upstream, target, app }) {
  if (order === "eject") return `${upstream}: ${target} is ejected`;
  if (upstream) return `Redelivery to ${upstream} is paused`;
  return app ? `Redelivery of ${app} is paused` : "All redelivery is paused";
}

function newReplica() {
  const cell = (name) => h("td", { role: "cell", "data-name": name });
  return h(
    "tr",
    { role: "row" },
    h("th", { scope: "row", role: "rowheader" }, h("b"), h("span", { class: "faint" })),
    h("td", { role: "cell" }, h("span", { class: "badge" })),
    cell("version"),
    cell("configuration"),
    cell("since"),
    cell("store"),
    cell("state"),
    h("td", { role: "cell", class: "behind" }),
  );
}

const UP = new Map([
  [true, "up"],
  [false, "down"],
]);

function paintReplica(row, replica) {
  const [name, phase, version, revision, since, store, state, last] = row.children;
  setText(name.firstChild, replica.name);
  setText(name.lastChild, [replica.here ? "this one" : "", replica.admin].filter(Boolean).join(", "));
  const badge = phase.firstChild;
  const word = replica.lost ? "lost" : replica.error ? "no answer" : replica.drained ? "drained" : replica.phase;
  badge.className = `badge ${replica.error ? "bad" : word === "ready" ? "good" : ""}`;
  setText(badge, word);
  setText(version, replica.version);
  setText(revision, replica.revision || "–");
  setText(since, ago(replica.since));
  since.title = dateAndClock(replica.since);
  setText(store, UP.get(replica.store) ?? (replica.error ? "–" : "none"));
  setText(state, UP.get(replica.state) ?? "–");
  for (const [cell, up] of [[store, replica.store], [state, replica.state]]) cell.classList.toggle("bad", up === false);
  setText(last, replica.error ?? (replica.behind.length ? `behind: ${replica.behind.join(", ")}` : ""));
  last.classList.toggle("bad", Boolean(replica.error));
}
