// The page's wiring: routes, the stream, the state of the connection, the theme.

import { get, keepToken } from "./api.js";
import { add, filterBy, findDecision, listHash, paintDecisions, paintFailures, refresh, refreshFailures, setUpDecisions, skip, suggestApps, tickDecisions } from "./decisions.js";
import { Diagnosis } from "./diagnosis.js";
import { byId, setText } from "./dom.js";
import { fetchAll, fetchFleet, paintFleet, setUpFleet, showsAll } from "./fleet.js";
import { History, failing } from "./history.js";
import { fetchInsights, paintInsights, showAllInsights } from "./insights.js";
import { paintNow, searchApps } from "./now.js";
import { onDone, confirmAction, setUpActions } from "./actions.js";
import { paintStatus, refreshConfig, setUpSettings } from "./settings.js";
import { closeDecision, openDecision } from "./decision.js";
import { closeEvent, fetchSpool, openEvent, paintSpool, refreshEvents, setUpSpool, showEvents } from "./spool.js";
import { listen } from "./stream.js";
import { paintUpstreams } from "./upstreams.js";
import { clock } from "./words.js";

const STATUS_EVERY = 3000; // ms
const INSIGHTS_EVERY = 1500; // ms
const SPOOL_EVERY = 2000; // ms
const FLEET_EVERY = 3000; // ms
const ALL_EVERY = 1000; // ms between two looks at all gateways, while they are shown
const VIEWS = { now: "Now", decisions: "Decisions", spool: "Spool", fleet: "Fleet", gateway: "Gateway" };
const THEMES = ["auto", "light", "dark"];
const THEME_KEY = "wcs-gateway.theme";

const state = { sample: null, history: new History(), diagnosis: new Diagnosis(), upstreams: null, status: null, insights: null, spool: null };
let view = "decisions"; // a link to one decision opens it over their list
let started = null; // start time of the gateway process that we listened to last
let heard = null; // time of the last event
let connection = { state: "connecting", attempt: 0 };
let configLoaded = null;

// --- routes ---

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const isDecision = name === "decisions" && id;
  const isEvent = name === "spool" && id;
  if (isEvent) view = "spool";
  else if (!isDecision) view = name in VIEWS ? name : "now";
  for (const other of Object.keys(VIEWS)) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${VIEWS[view]} · Gateway console`;
  if (isDecision) {
    let wanted = id;
    try {
      wanted = decodeURIComponent(id);
    } catch {
      // used as it is written
    }
    closeEvent();
    openDecision(wanted, findDecision(wanted));
  } else if (isEvent) {
    closeDecision();
    openEvent(id);
    refreshSpool();
  } else {
    closeDecision();
    closeEvent();
    if (view === "decisions") filterBy(new URLSearchParams(query));
    else if (view === "now" && state.insights) refreshInsights();
    else if (view === "gateway" && state.status) refreshStatus();
    else if (view === "fleet") refreshFleet();
    else if (view === "spool") {
      refreshSpool(() => showEvents(new URLSearchParams(query)));
    }
  }
  paint();
}

// --- painting ---

let paintPending = false;

/** Paint the current view, at most once per frame. */
function paint() {
  if (paintPending) return;
  paintPending = true;
  requestAnimationFrame(() => {
    paintPending = false;
    paintPhase();
    if (view === "now") {
      paintNow(state);
      paintInsights(state);
      paintUpstreams(state);
      paintFailures();
    } else if (view === "decisions") paintDecisions();
    else if (view === "spool") paintSpool();
    else if (view === "fleet") paintFleet();
    else paintStatus(state.status);
  });
}

function paintPhase() {
  const { status } = state;
  if (!status) return;
  const phase = status.draining ? "draining" : status.phase;
  const badge = byId("phase");
  badge.hidden = false;
  badge.dataset.phase = phase;
  setText(badge, phase);
  setText(byId("version"), status.version);
}

// --- the connection ---

function onState(now) {
  connection = now;
  if (now.state === "live") {
    for (const refetch of [refreshStatus, refreshInsights, refreshFailures, refreshSpool, refreshFleet]) refetch();
    if (view === "decisions") refresh();
  }
  if (now.state === "unauthorized") askForToken();
  paintConnection();
}

function paintConnection() {
  const { state: name, error, retryAt } = connection;
  const live = byId("live");
  live.dataset.state = name;
  setText(live, { live: "live", connecting: "connecting", lost: "no connection", unauthorized: "token required" }[name]);
  document.body.classList.toggle("stale", name === "lost" || name === "unauthorized");
  const notice = byId("notice");
  notice.hidden = name === "live" || name === "connecting";
  notice.className = "notice bad";
  if (name === "lost") {
    const cause = error?.status ? ` (${error.message})` : "";
    const since = heard ? ` The data shown is from ${clock(heard)}.` : "";
    setText(notice, `Connection lost, retrying${cause}.${since}`);
    notice.dataset.retry = String(retryAt ?? "");
  } else if (name === "unauthorized") setText(notice, "Enter the admin token to continue.");
}

function askForToken() {
  keepToken(null);
  confirmAction({
    title: "Admin token",
    text: ["Except from its own host, this gateway requires the admin token (admin.token in the configuration)."],
    button: "Use this token",
    path: null,
    done: () => stream.retry(),
  });
}

// --- events ---

function onEvent(name, data) {
  heard = new Date().toISOString();
  if (name === "hello") {
    if (started && started !== data.started) {
      state.history = new History(); // the gateway restarted, so its counters start again at 0
      configLoaded = null;
    }
    started = data.started;
  } else if (showsAll()) {
    if (name === "activity") tickDecisions(view === "decisions"); // the stream is this gateway's alone
  } else if (name === "activity") {
    takeSample(data);
    tickDecisions(view === "decisions");
  } else if (name === "upstreams") state.upstreams = data;
  else if (name === "decision") add(data);
  else if (name === "skipped") skip(data.skipped);
  if (!document.hidden) paint();
}

function takeSample(sample) {
  state.sample = sample;
  state.history.add(sample);
  state.diagnosis.look(
    sample.apps.filter(failing).map((app) => app.app),
    paint,
  );
  if (view === "now" && byId("apps-search").value) searchApps(state);
}

/** Begin anew with the figures of other gateways. */
function changeScope() {
  Object.assign(state, { sample: null, history: new History(), diagnosis: new Diagnosis(), upstreams: null, insights: null });
  byId("insights-panel").hidden = true;
  refreshAll();
  refreshInsights();
  refreshFailures();
  refresh();
  paint();
}

let lookingAtAll = false;

/** Fetch the figures of all gateways, while they are shown. */
async function refreshAll() {
  if (!showsAll() || lookingAtAll) return;
  lookingAtAll = true;
  try {
    const { sample, upstreams } = await fetchAll();
    if (showsAll()) {
      state.upstreams = upstreams;
      takeSample(sample);
    }
    paint();
  } catch {
    // the stream reports the connection
  }
  lookingAtAll = false;
}

async function refreshFleet() {
  try {
    await fetchFleet();
    paint();
  } catch {
    // the stream reports the connection
  }
}

async function refreshStatus() {
  try {
    state.status = await get("/api/status");
    if (configLoaded !== state.status.config.loaded) {
      const config = await refreshConfig();
      configLoaded = state.status.config.loaded;
      suggestApps(Object.keys(config.apps ?? {}));
    }
    paint();
  } catch {
    // the stream reports the connection
  }
}

let refreshing = false;

async function refreshInsights() {
  if (refreshing || showsAll()) return; // insights are of one gateway
  refreshing = true;
  try {
    const insights = await fetchInsights();
    if (!showsAll()) state.insights = insights;
    paint();
  } catch {
    // the stream reports the connection
  }
  refreshing = false;
}

/** Fetch the state of the spool; with `then`, do that afterwards, even if it could not be fetched. */
async function refreshSpool(then = refreshEvents) {
  try {
    state.spool = await fetchSpool();
    if (view === "spool") then();
    paint();
  } catch {
    // the stream reports the connection
  }
}

// --- the theme ---

function currentTheme() {
  const chosen = document.documentElement.dataset.theme;
  return THEMES.includes(chosen) ? chosen : "auto";
}

function paintTheme() {
  const theme = currentTheme();
  const button = byId("theme");
  button.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
  button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "as in the system settings" : theme}`);
  button.title = button.getAttribute("aria-label");
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(currentTheme()) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(THEME_KEY, next);
  } catch {
    // then it is kept for this page only
  }
  paintTheme();
}

// --- start ---

byId("theme").addEventListener("click", nextTheme);
paintTheme();
setUpDecisions();
setUpActions();
setUpSettings(() => {
  keepToken(null);
  stream.retry();
  paint();
});
setUpSpool();
setUpFleet(changeScope);
onDone(() => {
  refreshStatus();
  refreshFleet();
  refreshSpool();
});
byId("insights-more").addEventListener("click", () => showAllInsights(state));
byId("apps-search").addEventListener("input", () => searchApps(state));
byId("upstreams-search").addEventListener("input", () => paintUpstreams(state));
byId("decision-close").addEventListener("click", () => byId("decision").close());
byId("decision").addEventListener("close", () => {
  if (/^#\/decisions\/./.test(location.hash)) location.hash = view === "decisions" ? listHash() : `#/${view}`;
});
byId("decision").addEventListener("click", (event) => {
  if (event.target === byId("decision")) byId("decision").close(); // a click outside
});
document.addEventListener("visibilitychange", () => document.hidden || paint());
window.addEventListener("hashchange", route);
const stream = listen("/api/events", onEvent, onState);
setInterval(() => {
  if (connection.state === "live" && !document.hidden) refreshStatus();
}, STATUS_EVERY);
setInterval(() => {
  if (connection.state === "live" && !document.hidden) refreshFleet();
}, FLEET_EVERY);
setInterval(() => {
  if (connection.state === "live" && !document.hidden) refreshAll();
}, ALL_EVERY);
setInterval(() => {
  if (connection.state === "live" && !document.hidden && view === "now") refreshInsights();
}, INSIGHTS_EVERY);
setInterval(() => {
  if (connection.state === "live" && !document.hidden && (view === "spool" || view === "now")) refreshSpool();
}, SPOOL_EVERY);
route();
