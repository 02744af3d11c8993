// What is being decided now: the state in a sentence, tiles, the chart, the apps.

import { get } from "./api.js";
import { latestFailures } from "./decisions.js";
import { bar, sparkline, stacked } from "./charts.js";
import { sinceOf } from "./diagnosis.js";
import { byId, h, keyed, say } from "./dom.js";
import { insightTroubles } from "./insights.js";
import { SERIES, divided, failing, whole } from "./history.js";
import { clock, grouped, ms, plural, rate, reasonColour, reasonLabel, when, without } from "./words.js";

const SHOWN = 50;
const MOST = 1000;
const ASK_EVERY = 3000; // ms, while somebody looks for an app that is not among the first
const TROUBLES = 6;
const TOGETHER = 3;

let everything = null;
let asked = 0;

/** The series that are no cause's, as the chart's key names them. */
const NAMES = { ok: "allowed", denied: "denied", other: "not a valid hook" };
const nameOf = (key) => NAMES[key] ?? reasonLabel(key);

/** Paint the whole view from the state. */
export function paintNow(state) {
  const { sample, history } = state;
  paintHealth(state);
  if (!sample) return;
  paintTiles(state);
  paintChart(sample, history);
  paintApps(state);
}

// --- the state in a sentence ---

/** What goes wrong with apps, worst first; three or more with the same failure at the same place are one trouble. */
function troubledApps(apps, diagnosis) {
  const groups = new Map();
  for (const app of apps) {
    if (!failing(app)) continue;
    const cause = diagnosis.of(app.app, latestFailures());
    const key = `${cause.upstream} ${cause.where}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push({ app, cause });
  }
  return [...groups.values()].flatMap((group) => (group.length >= TOGETHER && group[0].cause.where ? [troubleOf(group)] : group.map((one) => troubleOf([one]))));
}

function troubleOf(group) {
  const [{ app: first, cause }] = group;
  const total = { failed: 0, hooks: 0, reasons: new Map() };
  for (const { app } of group) {
    total.failed += failing(app);
    total.hooks += app.per_second;
    for (const [reason, value] of Object.entries(app.reasons)) total.reasons.set(reason, (total.reasons.get(reason) ?? 0) + value);
  }
  const reasons = [...total.reasons].sort((one, other) => other[1] - one[1]).map(([reason, value]) => `${reasonLabel(reason)} ${rate(value)}`);
  const causes = [cause.where, sinceOf(group.map((one) => one.cause.since))].filter(Boolean).join(", ");
  const one = group.length === 1;
  const narrowed = one ? { app: first.app } : cause.target ? { upstream: cause.upstream, target: cause.target } : {};
  return {
    key: one ? `app ${first.app}` : `apps ${cause.upstream} ${cause.where}`,
    level: "bad",
    apps: group.length,
    name: one ? first.app : `${first.app} and ${plural(group.length - 1, "other app")}`,
    text: `${rate(total.failed)} of ${rate(total.hooks)} hooks/s go wrong: ${reasons.join(", ")}${causes ? ` – ${causes}` : ""}`,
    link: `#/decisions?${new URLSearchParams({ ...narrowed, failures: "1" })}`,
  };
}

/** What is wrong, worst first: `{level, text, link, why}`. */
function troubles({ sample, upstreams, status, diagnosis, insights }) {
  const found = [];
  if (status?.draining || status?.phase === "draining") {
    found.push({ level: "warn", text: "Draining: balancers are told to send no more hooks here", link: "#/gateway" });
  }
  found.push(...troubledApps(sample?.apps ?? [], diagnosis));
  for (const upstream of upstreams?.upstreams ?? []) {
    for (const target of upstream.targets) {
      if (target.state === "up" || !target.state) continue;
      const since = target.since ? ` since ${when(target.since)}` : "";
      found.push({
        level: target.state === "held" ? "warn" : "bad",
        name: `${upstream.name} / ${target.target}`,
        text: `${STATES[target.state] ?? target.state}${since}${target.why ? `: ${without(target.target, target.why)}` : ""}`,
        link: `#/decisions?${new URLSearchParams({ upstream: upstream.name, target: target.target, failures: "1" })}`,
      });
    }
  }
  found.push(...insightTroubles(insights));
  if (status?.last_reload && status.last_reload.successful === false) {
    found.push({ level: "warn", text: `The last reload failed (${when(status.last_reload.time)}): the configuration on disk is not in force`, link: "#/gateway" });
  }
  return found;
}

/** A target's state for people. */
export const STATES = { up: "up", ejected: "ejected", probing: "being tried again", held: "held out by an operator", partly: "closed to some apps" };

function paintHealth(state) {
  const box = byId("health");
  if (!state.sample || !state.upstreams || !state.status) return;
  const found = troubles(state);
  const bad = found.filter((trouble) => trouble.level === "bad").length;
  box.dataset.level = bad ? "bad" : found.length ? "warn" : "good";
  const apps = found.reduce((sum, trouble) => sum + (trouble.apps ?? 0), 0);
  const targets = found.filter((trouble) => trouble.level === "bad" && !trouble.apps).length;
  const perhapsMore = apps === state.sample.apps.length && apps < state.sample.app_count; // the stream brings so many only
  const parts = [apps && plural(apps, "app") + (perhapsMore ? " or more" : ""), targets && plural(targets, "target")].filter(Boolean);
  say(byId("summary"), bad ? `Trouble with ${parts.join(" and ")}` : found.length ? "Working, with something to know" : "All is well: every target is up and no hook fails");
  const shown = found.slice(0, TROUBLES);
  if (found.length > shown.length) shown.push({ level: "warn", text: `and ${grouped(found.length - shown.length)} more`, link: null, key: "more" });
  keyed(
    byId("troubles"),
    shown,
    (trouble) => trouble.key ?? `${trouble.link} ${trouble.name ?? trouble.text}`,
    () => h("li", {}, h("a", {}, h("strong"), h("span"))),
    (item, trouble) => {
      item.className = trouble.level;
      const link = item.firstChild;
      if (trouble.link) link.setAttribute("href", trouble.link);
      else link.removeAttribute("href");
      say(link.firstChild, trouble.name ?? "");
      say(link.lastChild, trouble.text);
    },
  );
}

// --- tiles ---

function paintTiles({ sample, upstreams, status }) {
  const total = whole(sample);
  const hooks = status?.hooks ?? {};
  const targets = (upstreams?.upstreams ?? []).flatMap((upstream) => upstream.targets);
  const up = targets.filter((target) => target.state === "up").length;
  const refused = total.refused_by_fallback ?? hooks.refused_by_fallback_per_second;
  const allowed = total.allowed_by_fallback ?? hooks.allowed_by_fallback_per_second;
  const tiles = [
    { name: "Hooks/s", value: rate(total.per_second), note: `${grouped(sample.in_flight)} in flight` },
    { name: "Refused by fallback/s", value: rate(refused), note: "not decided by a backend", level: refused ? "bad" : "" },
    { name: "Allowed by fallback/s", value: rate(allowed), note: "let through unchecked", level: allowed ? "warn" : "" },
    { name: "Median", value: ms(total.p50_ms), note: `p99 ${ms(total.p99_ms)}` },
    { name: "Targets up", value: targets.length ? `${up} of ${targets.length}` : "–", note: plural(upstreams?.upstreams.length ?? 0, "upstream"), level: up < targets.length ? "bad" : "" },
  ];
  keyed(
    byId("tiles"),
    tiles,
    (tile) => tile.name,
    (tile) => h("div", {}, h("dt", {}, tile.name), h("dd", { class: "value" }), h("dd", { class: "note" })),
    (element, tile) => {
      element.dataset.level = tile.level ?? "";
      say(element.children[1], tile.value);
      say(element.children[2], tile.note);
    },
  );
}

// --- the chart ---

function paintChart(sample, history) {
  const parts = divided(whole(sample));
  const words = SERIES.filter((key) => parts[key] > 0).map((key) => `${nameOf(key)} ${rate(parts[key])}`);
  stacked(byId("chart"), history.series(), `Hooks per second over the last ${history.span} seconds. Now: ${words.join(", ") || "none"}.`);
  say(byId("chart-span"), `last ${history.span < 120 ? plural(history.span, "second") : plural(Math.floor(history.span / 60), "minute")}, until ${clock(sample.time)}`);
  keyed(
    byId("legend"),
    SERIES.filter((key) => parts[key] > 0 || key === "ok" || history.samples.some((old) => old.parts[key] > 0)),
    (key) => key,
    (key) => h("li", {}, h("i", { class: `swatch back-${key}`, "aria-hidden": "true" }), h("span", {}, nameOf(key)), h("b")),
    (item, key) => say(item.lastChild, rate(parts[key])),
  );
}

// --- apps ---

function matching({ sample }) {
  const wanted = byId("apps-search").value.trim().toLowerCase();
  if (!wanted) return { apps: sample.apps.slice(0, SHOWN), wanted };
  const known = new Map((everything?.apps ?? []).map((app) => [app.app, app]));
  for (const app of sample.apps) known.set(app.app, app); // fresher
  return { apps: [...known.values()].filter((app) => app.app.toLowerCase().includes(wanted)), wanted };
}

/** Ask for all apps while somebody searches: the stream brings the first fifty only. */
export async function searchApps(state) {
  const wanted = byId("apps-search").value.trim();
  const lacking = (state.sample?.app_count ?? 0) > (state.sample?.apps.length ?? 0);
  if (wanted && lacking && Date.now() - asked > ASK_EVERY) {
    asked = Date.now();
    try {
      everything = await get(`/api/activity?apps=${MOST}`);
    } catch {
      asked = Date.now(); // the state of the connection is told elsewhere
    }
  }
  if (state.sample) paintApps(state);
}

/** The same in the order of before while somebody points at one of them, or is about to press Enter. */
function steady(apps) {
  const body = byId("apps");
  if (!body.matches(":hover") && !body.contains(document.activeElement)) return apps;
  const places = new Map([...body.children].map((row, at) => [row.dataset.key, at]));
  const place = (app) => places.get(app.app) ?? places.size;
  return apps.sort((one, other) => place(one) - place(other));
}

function paintApps(state) {
  const { sample, history } = state;
  const { apps, wanted } = matching(state);
  const shown = steady(apps.slice(0, SHOWN));
  const count = sample.app_count;
  say(byId("apps-count"), wanted ? `${grouped(apps.length)} found of ${grouped(count)}` : shown.length < count ? `${shown.length} of ${grouped(count)}, most trouble first` : plural(count, "app"));
  const empty = byId("apps-empty");
  empty.hidden = shown.length > 0;
  say(empty, wanted ? "No app of that name is configured, or has had a hook." : "No hook has come yet.");
  keyed(byId("apps"), shown, (app) => app.app, newAppRow, (row, app) => paintApp(row, app, history));
}

function newAppRow(app) {
  const link = h("a", { href: `#/decisions?${new URLSearchParams({ app: app.app })}`, title: app.app }, app.app);
  return h(
    "tr",
    { role: "row" },
    h("th", { scope: "row", role: "rowheader" }, link),
    h("td", { role: "cell", class: "rate" }, h("b"), h("span", { class: "spark-box" })),
    h("td", { role: "cell", class: "verdicts" }, h("span")),
    h("td", { role: "cell", class: "causes" }),
    h("td", { role: "cell", class: "number", "data-name": "p50" }),
    h("td", { role: "cell", class: "number", "data-name": "p99" }),
    h("td", { role: "cell", class: "number", "data-name": "in flight" }),
  );
}

function paintApp(row, app, history) {
  const [, rates, verdicts, causes, p50, p99, inFlight] = row.children;
  const failed = failing(app);
  row.classList.toggle("trouble", failed > 0);
  say(rates.firstChild, rate(app.per_second));
  const { rates: line, failures } = history.of(app.app);
  rates.lastChild.replaceChildren(sparkline(line, failures));
  const all = app.per_second || 0;
  const parts = divided(app);
  if (all) {
    const shares = SERIES.map((key) => ({ colour: key, share: parts[key] / all })).filter(({ share }) => share > 0);
    const words = SERIES.filter((key) => parts[key] > 0).map((key) => `${nameOf(key)} ${Math.round((100 * parts[key]) / all)} %`);
    const picture = bar(shares, words.join(", "));
    verdicts.replaceChildren(picture);
    verdicts.title = words.join(", ");
  } else {
    verdicts.replaceChildren(h("span", { class: "faint" }, "idle"));
    verdicts.title = "";
  }
  keyed(
    causes,
    Object.entries(app.reasons ?? {}).filter(([, value]) => value > 0),
    ([reason]) => reason,
    ([reason]) => h("span", { class: `chip chip-${reasonColour(reason)}` }, `${reasonLabel(reason)} `, h("b")),
    (chip, [, value]) => say(chip.lastChild, rate(value)),
  );
  say(p50, ms(app.p50_ms));
  say(p99, ms(app.p99_ms));
  say(inFlight, grouped(app.in_flight));
}

