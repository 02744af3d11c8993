// The page's wiring: routes, the stream, the state of the connection, the theme.

import { get, keepToken } from "./api.js";
import { add, filterBy, knownCall, listHash, paintCalls, paintFailures, refresh, refreshFailures, setUpCalls, skip, suggestApps, tickCalls } from "./decisions.js";
import { Diagnosis } from "./diagnosis.js";
import { byId, say } from "./dom.js";
import { History, failing } from "./history.js";
import { fetchInsights, paintInsights, showAllInsights } from "./insights.js";
import { paintNow, searchApps } from "./now.js";
import { onDone, order, setUpOrders } from "./actions.js";
import { paintStatus, refreshConfig, setUpSettings } from "./settings.js";
import { closeStory, openStory } from "./decision.js";
import { listen } from "./stream.js";
import { paintUpstreams } from "./upstreams.js";
import { clock } from "./words.js";

const STATUS_EVERY = 3000; // ms
const INSIGHTS_EVERY = 1500; // ms
const THEMES = ["auto", "light", "dark"];
const THEME_KEY = "wcs-gateway.theme";

const state = { sample: null, history: new History(), diagnosis: new Diagnosis(), upstreams: null, status: null, insights: null };
let view = "decisions"; // a link to one decision opens it over their list
let started = null; // of the gateway process that we listened to last
let heard = null; // when it last said anything
let connection = { state: "connecting", attempt: 0 };
let configLoaded = null;

// --- routes ---

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, id] = path.split("/");
  const story = name === "decisions" && id;
  if (!story) view = ["now", "decisions", "gateway"].includes(name) ? name : "now";
  for (const other of ["now", "decisions", "gateway"]) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${{ now: "Now", decisions: "Decisions", gateway: "Gateway" }[view]} · Gateway console`;
  if (story) {
    let wanted = id;
    try {
      wanted = decodeURIComponent(id);
    } catch {
      // taken as it stands
    }
    openStory(wanted, knownCall(wanted));
  } else {
    closeStory();
    if (view === "decisions") filterBy(new URLSearchParams(query));
    else if (view === "now" && state.insights) refreshInsights();
    else if (view === "gateway" && state.status) refreshStatus();
  }
  paint();
}

// --- painting ---

let asked = false;

/** Paint the view that is shown, once per frame. */
function paint() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    paintPhase();
    if (view === "now") {
      paintNow(state);
      paintInsights(state);
      paintUpstreams(state);
      paintFailures();
    } else if (view === "decisions") paintCalls();
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
  say(badge, phase);
  say(byId("version"), status.version);
}

// --- the connection ---

function onState(now) {
  connection = now;
  if (now.state === "live") {
    for (const refetch of [refreshStatus, refreshInsights, refreshFailures]) refetch();
    if (view === "decisions") refresh();
  }
  if (now.state === "refused") askForToken();
  paintConnection();
}

function paintConnection() {
  const { state: name, error, retryAt } = connection;
  const live = byId("live");
  live.dataset.state = name;
  say(live, { live: "live", connecting: "connecting", lost: "no connection", refused: "token wanted" }[name]);
  document.body.classList.toggle("stale", name === "lost" || name === "refused");
  const notice = byId("notice");
  notice.hidden = name === "live" || name === "connecting";
  notice.className = "notice bad";
  if (name === "lost") {
    const cause = error?.status ? ` (${error.message})` : "";
    const since = heard ? ` What you see is from ${clock(heard)}.` : "";
    say(notice, `Connection lost, trying again${cause}.${since}`);
    notice.dataset.retry = String(retryAt ?? "");
  } else if (name === "refused") say(notice, "This gateway tells nothing without its admin token.");
}

function askForToken() {
  keepToken(null);
  order({
    title: "Admin token",
    text: ["From anywhere but its own host, this gateway asks for its admin token (admin.token in the configuration)."],
    button: "Use it",
    path: null,
    done: () => stream.retry(),
  });
}

// --- what comes ---

function onEvent(name, data) {
  heard = new Date().toISOString();
  if (name === "hello") {
    if (started && started !== data.started) {
      state.history = new History(); // its counters have begun anew
      configLoaded = null;
    }
    started = data.started;
  } else if (name === "activity") {
    state.sample = data;
    state.history.add(data);
    state.diagnosis.look(
      data.apps.filter(failing).map((app) => app.app),
      paint,
    );
    if (view === "now" && byId("apps-search").value) searchApps(state);
    tickCalls(view === "decisions");
  } else if (name === "upstreams") state.upstreams = data;
  else if (name === "call") add(data);
  else if (name === "skipped") skip(data.skipped);
  if (!document.hidden) paint();
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
    // the stream tells of the connection
  }
}

let asking = false;

async function refreshInsights() {
  if (asking) return;
  asking = true;
  try {
    state.insights = await fetchInsights();
    paint();
  } catch {
    // the stream tells of the connection
  }
  asking = false;
}

// --- the theme ---

function themeNow() {
  const chosen = document.documentElement.dataset.theme;
  return THEMES.includes(chosen) ? chosen : "auto";
}

function paintTheme() {
  const theme = themeNow();
  const button = byId("theme");
  button.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
  button.setAttribute("aria-label", `Colours: ${theme === "auto" ? "as the system has them" : theme}`);
  button.title = button.getAttribute("aria-label");
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(themeNow()) + 1) % THEMES.length];
  if (next === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(THEME_KEY, next);
  } catch {
    // for this page only, then
  }
  paintTheme();
}

// --- beginning ---

byId("theme").addEventListener("click", nextTheme);
paintTheme();
setUpCalls();
setUpOrders();
setUpSettings(() => {
  keepToken(null);
  stream.retry();
  paint();
});
onDone(refreshStatus);
byId("insights-more").addEventListener("click", () => showAllInsights(state));
byId("apps-search").addEventListener("input", () => searchApps(state));
byId("upstreams-search").addEventListener("input", () => paintUpstreams(state));
byId("story-close").addEventListener("click", () => byId("story").close());
byId("story").addEventListener("close", () => {
  if (/^#\/decisions\/./.test(location.hash)) location.hash = view === "decisions" ? listHash() : `#/${view}`;
});
byId("story").addEventListener("click", (event) => {
  if (event.target === byId("story")) byId("story").close(); // beside it
});
document.addEventListener("visibilitychange", () => document.hidden || paint());
window.addEventListener("hashchange", route);
const stream = listen("/api/events", onEvent, onState);
setInterval(() => {
  if (connection.state === "live" && !document.hidden) refreshStatus();
}, STATUS_EVERY);
setInterval(() => {
  if (connection.state === "live" && !document.hidden && view === "now") refreshInsights();
}, INSIGHTS_EVERY);
route();
