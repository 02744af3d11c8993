// The view Now: the state in one sentence, tiles, the chart, the apps.

import { get } from "./api.js";
import { latestFailures } from "./decisions.js";
import { bar, sparkline, stacked } from "./charts.js";
import { earliest } from "./diagnosis.js";
import { byId, h, keyed, setText } from "./dom.js";
import { fleetProblems, scoped } from "./fleet.js";
import { insightProblems } from "./insights.js";
import { spoolProblems } from "./spool.js";
import { SERIES, bySeries, failing, totals } from "./history.js";
import { clock, grouped, ms, plural, rate, reasonColour, reasonLabel, when, withoutName } from "./words.js";

const SHOWN = 50;
const MOST = 1000;
const ASK_EVERY = 3000; // ms between two fetches of all apps during a search
const TROUBLES = 6;
const TOGETHER = 3;

let allApps = null;
let fetched = 0;

/** The series that are not causes, as the legend names them. */
const NAMES = { ok: "allowed", denied: "rejected", other: "not a valid hook" };
const seriesName = (key) => NAMES[key] ?? reasonLabel(key);

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

/** Failing apps, worst first; three or more with the same failure at the same target are one entry. */
function failingApps(apps, diagnosis) {
  const groups = new Map();
  for (const app of apps) {
    if (!failing(app)) continue;
    const cause = diagnosis.causeOf(app.app, latestFailures());
    const key = `${cause.upstream} ${cause.where}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push({ app, cause });
  }
  return [...groups.values()].flatMap((group) => (group.length >= TOGETHER && group[0].cause.where ? [problemEntry(group)] : group.map((one) => problemEntry([one]))));
}

function problemEntry(group) {
  const [{ app: first, cause }] = group;
  const total = { failed: 0, hooks: 0, reasons: new Map() };
  for (const { app } of group) {
    total.failed += failing(app);
    total.hooks += app.per_second;
    for (const [reason, value] of Object.entries(app.reasons)) total.reasons.set(reason, (total.reasons.get(reason) ?? 0) + value);
  }
  const reasons = [...total.reasons].sort((one, other) => other[1] - one[1]).map(([reason, value]) => `${reasonLabel(reason)} ${rate(value)}`);
  const causes = [cause.where, earliest(group.map((one) => one.cause.since))].filter(Boolean).join(", ");
  const one = group.length === 1;
  const narrowed = one ? { app: first.app } : cause.target ? { upstream: cause.upstream, target: cause.target } : {};
  return {
    key: one ? `app ${first.app}` : `apps ${cause.upstream} ${cause.where}`,
    level: "bad",
    apps: group.length,
    name: one ? first.app : `${first.app} and ${plural(group.length - 1, "other app")}`,
    text: `${rate(total.failed)} of ${rate(total.hooks)} hooks/s failing (${reasons.join(", ")})${causes ? ` – ${causes}` : ""}`,
    link: `#/decisions?${new URLSearchParams({ ...narrowed, failures: "1" })}`,
  };
}

/** All problems, worst first: `{key, level, name, text, link}`. */
function troubles({ sample, upstreams, status, diagnosis, insights, spool }) {
  const found = [];
  if (status?.draining || status?.phase === "draining") {
    found.push({ level: "warn", text: "Draining: load balancers are asked to send hooks elsewhere", link: "#/gateway" });
  }
  found.push(...failingApps(sample?.apps ?? [], diagnosis));
  for (const upstream of upstreams?.upstreams ?? []) {
    for (const target of upstream.targets) {
      if (target.state === "up" || !target.state) continue;
      const since = target.since ? ` since ${when(target.since)}` : "";
      found.push({
        level: target.state === "ejected_by_operator" ? "warn" : "bad",
        name: `${upstream.name} / ${target.target}`,
        text: `${STATES[target.state] ?? target.state}${since}${target.reason ? `: ${withoutName(target.target, target.reason)}` : ""}`,
        link: `#/decisions?${new URLSearchParams({ upstream: upstream.name, target: target.target, failures: "1" })}`,
      });
    }
  }
  found.push(...fleetProblems(), ...insightProblems(insights), ...spoolProblems(spool));
  if (status?.last_reload && status.last_reload.successful === false) {
    found.push({ level: "warn", text: `The last reload failed (${when(status.last_reload.time)}): the file on disk is not in use`, link: "#/gateway" });
  }
  return found;
}

/** A target's state in words. */
export const STATES = { up: "up", ejected: "ejected", probing: "being probed", ejected_by_operator: "ejected by an operator", partly: "ejected for some apps" };

const inWords = (parts) => [parts.slice(0, -1).join(", "), parts.at(-1)].filter(Boolean).join(" and ");

function paintHealth(state) {
  const box = byId("health");
  if (!state.sample || !state.upstreams || !state.status) return;
  const found = troubles(state);
  const bad = found.filter((trouble) => trouble.level === "bad").length;
  box.dataset.level = bad ? "bad" : found.length ? "warn" : "good";
  const apps = found.reduce((sum, trouble) => sum + (trouble.apps ?? 0), 0);
  const store = found.some((trouble) => trouble.level === "bad" && trouble.store);
  const gateways = found.filter((trouble) => trouble.level === "bad" && trouble.gateway).length;
  const targets = found.filter((trouble) => trouble.level === "bad" && !trouble.apps && !trouble.store && !trouble.gateway).length;
  const perhapsMore = apps === state.sample.apps.length && apps < state.sample.app_count; // the stream sends only so many
  const parts = [apps && plural(apps, "app") + (perhapsMore ? " or more" : ""), targets && plural(targets, "target"), gateways && plural(gateways, "gateway"), store && "the store"].filter(Boolean);
  setText(byId("summary"), bad ? `Problems with ${inWords(parts)}` : found.length ? "Working, with warnings" : "All is well: every target is up and no hook is failing");
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
      setText(link.firstChild, trouble.name ?? "");
      setText(link.lastChild, trouble.text);
    },
  );
}

// --- tiles ---

function paintTiles({ sample, upstreams, status }) {
  const total = totals(sample);
  const hooks = status?.hooks ?? {};
  const targets = (upstreams?.upstreams ?? []).flatMap((upstream) => upstream.targets);
  const up = targets.filter((target) => target.state === "up").length;
  const rejected = total.rejected_by_fallback ?? hooks.rejected_by_fallback_per_second;
  const allowed = total.allowed_by_fallback ?? hooks.allowed_by_fallback_per_second;
  const tiles = [
    { name: "Hooks/s", value: rate(total.per_second), note: `${grouped(sample.in_flight)} in flight` },
    { name: "Rejected by fallback/s", value: rate(rejected), note: "no backend decided", level: rejected ? "bad" : "" },
    { name: "Allowed by fallback/s", value: rate(allowed), note: "no backend checked them", level: allowed ? "warn" : "" },
    { name: "Median hook time", value: ms(total.p50_ms), note: `p99 ${ms(total.p99_ms)}` },
    { name: "Targets up", value: targets.length ? `${up} of ${targets.length}` : "–", note: plural(upstreams?.upstreams.length ?? 0, "upstream"), level: up < targets.length ? "bad" : "" },
  ];
  keyed(
    byId("tiles"),
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

// --- the chart ---

function paintChart(sample, history) {
  const parts = bySeries(totals(sample));
  const words = SERIES.filter((key) => parts[key] > 0).map((key) => `${seriesName(key)} ${rate(parts[key])}`);
  stacked(byId("chart"), history.series(), `Hooks per second over the last ${history.span} seconds. Now: ${words.join(", ") || "none"}.`);
  setText(byId("chart-span"), `last ${history.span < 120 ? plural(history.span, "second") : plural(Math.floor(history.span / 60), "minute")}, until ${clock(sample.time)}`);
  keyed(
    byId("legend"),
    SERIES.filter((key) => parts[key] > 0 || key === "ok" || history.samples.some((old) => old.parts[key] > 0)),
    (key) => key,
    (key) => h("li", {}, h("i", { class: `swatch back-${key}`, "aria-hidden": "true" }), h("span", {}, seriesName(key)), h("b")),
    (item, key) => setText(item.lastChild, rate(parts[key])),
  );
}

// --- apps ---

function matching({ sample }) {
  const wanted = byId("apps-search").value.trim().toLowerCase();
  if (!wanted) return { apps: sample.apps.slice(0, SHOWN), wanted };
  const known = new Map((allApps?.apps ?? []).map((app) => [app.app, app]));
  for (const app of sample.apps) known.set(app.app, app); // fresher
  return { apps: [...known.values()].filter((app) => app.app.toLowerCase().includes(wanted)), wanted };
}

/** Fetch all apps during a search: the stream sends only the first fifty. */
export async function searchApps(state) {
  const wanted = byId("apps-search").value.trim();
  const lacking = (state.sample?.app_count ?? 0) > (state.sample?.apps.length ?? 0);
  if (wanted && lacking && Date.now() - fetched > ASK_EVERY) {
    fetched = Date.now();
    try {
      allApps = await get(scoped(`/api/activity?apps=${MOST}`));
    } catch {
      fetched = Date.now(); // console.js reports the connection
    }
  }
  if (state.sample) paintApps(state);
}

/** Keep the order of the rows while the pointer or the focus is on one of them. */
function keepOrder(apps) {
  const body = byId("apps");
  if (!body.matches(":hover") && !body.contains(document.activeElement)) return apps;
  const places = new Map([...body.children].map((row, at) => [row.dataset.key, at]));
  const place = (app) => places.get(app.app) ?? places.size;
  return apps.sort((one, other) => place(one) - place(other));
}

function paintApps(state) {
  const { sample, history } = state;
  const { apps, wanted } = matching(state);
  const shown = keepOrder(apps.slice(0, SHOWN));
  const count = sample.app_count;
  setText(byId("apps-count"), wanted ? `${grouped(apps.length)} found of ${grouped(count)}` : shown.length < count ? `${shown.length} of ${grouped(count)}, most failures first` : plural(count, "app"));
  const empty = byId("apps-empty");
  empty.hidden = shown.length > 0;
  setText(empty, wanted ? "No app with this name." : "No hooks yet.");
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
  setText(rates.firstChild, rate(app.per_second));
  const { rates: line, failures } = history.of(app.app);
  rates.lastChild.replaceChildren(sparkline(line, failures));
  const all = app.per_second || 0;
  const parts = bySeries(app);
  if (all) {
    const shares = SERIES.map((key) => ({ colour: key, share: parts[key] / all })).filter(({ share }) => share > 0);
    const words = SERIES.filter((key) => parts[key] > 0).map((key) => `${seriesName(key)} ${Math.round((100 * parts[key]) / all)} %`);
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
    (chip, [, value]) => setText(chip.lastChild, rate(value)),
  );
  setText(p50, ms(app.p50_ms));
  setText(p99, ms(app.p99_ms));
  setText(inFlight, grouped(app.in_flight));
}

