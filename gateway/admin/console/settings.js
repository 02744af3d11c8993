// The view Gateway: the process, its last reload, its configuration as written.

import { get, token } from "./api.js";
import { byId, h, setText } from "./dom.js";
import { confirmAction, setTokenConfigured } from "./actions.js";
import { ago, dateAndClock, grouped, plural, roughly } from "./words.js";

const AT_START = 1000; // ms after the start within which a load is not a reload
const ENTRIES = 200; // shown per section

let config = null;

/** Fetch the configuration again and return it. */
export async function refreshConfig() {
  config = await get("/api/config");
  setTokenConfigured(Boolean(config.admin?.token));
  byId("actions-hint").textContent = config.admin?.token
    ? "Each action needs the admin token."
    : "Set admin.token to enable these buttons; until then use curl on this host.";
  paintConfig();
  return config;
}

/** Paint the status. */
export function paintStatus(status) {
  if (!status) return;
  const drain = status.draining;
  const rows = [
    ["Version", `${status.version}, Python ${status.python}`],
    ["State", drain ? "draining: load balancers see it as not ready" : status.phase],
    ["Started", `${dateAndClock(status.started)}, ${roughly(status.uptime_seconds)} ago`],
    ["Hooks on", (status.listen ?? []).join(", ")],
    ["Admin port", status.admin],
    ["Workers", `${status.workers.length} (pid ${status.workers.join(", ")})`],
    ["Journal", status.journal ? plural(status.journal.held, "decision") : null],
    ["Configuration", `${status.config.path}: ${plural(status.config.apps, "app")}, ${plural(status.config.upstreams, "upstream")}`],
    ["Loaded", `${dateAndClock(status.config.loaded)}, ${ago(status.config.loaded)}`],
  ];
  const shown = rows.filter(([, value]) => value);
  const text = JSON.stringify(shown);
  const box = byId("facts");
  if (box.dataset.shown !== text) {
    box.dataset.shown = text;
    box.replaceChildren(...shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }
  paintReload(status.last_reload, status.started);
  const warnings = status.warnings ?? [];
  byId("warnings-panel").hidden = warnings.length === 0;
  byId("warnings").replaceChildren(...warnings.map((warning) => h("li", {}, warning)));
  byId("action-drain").textContent = drain ? "End the drain …" : "Drain …";
  byId("action-drain").dataset.draining = String(Boolean(drain));
  byId("forget-token").hidden = !token();
}

function paintReload(reload, started) {
  const box = byId("reload");
  const text = JSON.stringify(reload ?? null);
  if (box.dataset.shown === text) return;
  box.dataset.shown = text;
  const first = reload?.successful && !reload.changes?.length && new Date(reload.time) - new Date(started) < AT_START;
  if (!reload?.time || first) {
    box.replaceChildren(h("p", {}, "None since start. The file is reloaded when it changes, on SIGHUP, or with the button below."));
    return;
  }
  const list = (items, title) => (items?.length ? [h("h3", {}, title), h("ul", { class: "plain code" }, ...items.slice(0, ENTRIES).map((item) => h("li", {}, item)))] : []);
  box.replaceChildren(
    h("p", {}, h("span", { class: `badge ${reload.successful ? "good" : "bad"}` }, reload.successful ? "successful" : "failed"), ` ${dateAndClock(reload.time)}`),
    ...(reload.successful ? [] : [h("p", {}, "Nothing changed: the configuration below is still in use.")]),
    ...list(reload.problems, "Problems"),
    ...list(reload.changes, "Changes"),
  );
  if (reload.successful && !reload.changes?.length) box.append(h("p", { class: "hint" }, "Nothing changed."));
}

// --- the configuration ---

/** A value roughly as YAML; ambiguous strings are quoted. */
function scalar(value) {
  if (typeof value !== "string") return String(value);
  return /^[A-Za-z0-9_./$*@{}%+-][^#\n"]*$/.test(value) && !/: |^(true|false|null|yes|no|on|off|~)$/i.test(value) && !/^[-?*&!|>%@`{[]/.test(value) ? value : JSON.stringify(value);
}

const key = (name) => (/^[\w.*-]+$/.test(name) ? name : JSON.stringify(name));
const isScalar = (value) => value === null || typeof value !== "object";
const SHORT = 4; // items of a list written on one line

function lines(value, indent) {
  const space = "  ".repeat(indent);
  if (Array.isArray(value)) {
    return value.flatMap((item) => {
      if (isScalar(item)) return [`${space}- ${scalar(item)}`];
      const below = lines(item, indent + 1);
      return below.length ? [`${space}- ${below[0].trimStart()}`, ...below.slice(1)] : [`${space}- {}`];
    });
  }
  return Object.entries(value).flatMap(([name, item]) => {
    const start = `${space}${key(name)}:`;
    if (isScalar(item)) return [`${start} ${scalar(item)}`];
    if (Array.isArray(item) && item.length <= SHORT && item.every(isScalar)) return [`${start} [${item.map(scalar).join(", ")}]`];
    const below = lines(item, indent + 1);
    return below.length ? [start, ...below] : [`${start} {}`];
  });
}

/** The entries of a section, each its own block of text. */
function blocks(section) {
  if (isScalar(section)) return [scalar(section)];
  if (Array.isArray(section)) return [lines(section, 0).join("\n")];
  return Object.entries(section).map(([name, value]) => lines({ [name]: value }, 0).join("\n"));
}

function paintConfig() {
  if (!config) return;
  const wanted = byId("config-search").value.trim().toLowerCase();
  let found = 0;
  const sections = Object.entries(config).flatMap(([name, section]) => {
    const all = blocks(section);
    const kept = wanted && !name.toLowerCase().includes(wanted) ? all.filter((block) => block.toLowerCase().includes(wanted)) : all;
    found += kept.length;
    if (wanted && !kept.length) return [];
    const shown = kept.slice(0, ENTRIES);
    const more = kept.length - shown.length;
    const several = !isScalar(section);
    return [
      h(
        "details",
        { open: Boolean(wanted) || all.length <= 30, class: "section" },
        h("summary", {}, name, several ? h("small", {}, ` ${plural(all.length, "entry", "entries")}`) : null),
        h("pre", { tabindex: "0", "aria-label": `Section ${name}` }, shown.join("\n")),
        more > 0 ? h("p", { class: "hint" }, `and ${grouped(more)} more: use the search`) : null,
      ),
    ];
  });
  setText(byId("config-found"), wanted ? `${plural(found, "entry", "entries")} found` : "");
  byId("config").replaceChildren(...sections);
  if (!sections.length && !wanted) byId("config").append(h("p", { class: "empty" }, "The file is empty: every setting has its default."));
}

/** Set up the view; called once. `forget()` is called to forget the token. */
export function setUpSettings(forget) {
  byId("config-search").addEventListener("input", paintConfig);
  byId("forget-token").addEventListener("click", forget);
  byId("action-reload").addEventListener("click", () =>
    confirmAction({
      title: "Reload the configuration?",
      text: ["The file is read again. If it has an error, nothing changes and the error is shown. No hook is lost either way."],
      button: "Reload",
      path: "/-/reload",
      done: (answer) => (answer.changes?.length ? `Reloaded: ${plural(answer.changes.length, "change")}.` : "Reloaded: nothing changed."),
    }),
  );
  byId("action-drain").addEventListener("click", () => {
    const draining = byId("action-drain").dataset.draining === "true";
    confirmAction({
      title: draining ? "End the drain?" : "Drain this gateway?",
      text: [
        draining
          ? "The gateway becomes ready again: load balancers send it hooks, and connections stay open."
          : "The gateway becomes not ready, so load balancers send hooks elsewhere, and it asks clients to close their connections. It still decides hooks that arrive. It does not stop by itself.",
        draining ? null : "A media server that sends hooks here directly continues to do so.",
      ],
      danger: !draining,
      button: draining ? "End the drain" : "Drain",
      path: draining ? "/-/undrain" : "/-/drain",
      done: () => (draining ? "The gateway is ready again." : "The gateway is draining."),
    });
  });
}
