// Upstreams and their targets: state, why, since when, and the buttons to eject and restore them.

import { byId, h, keyed, setText } from "./dom.js";
import { inFleet } from "./fleet.js";
import { STATES } from "./now.js";
import { confirmAction } from "./actions.js";
import { ago, grouped, ms, plural, when, withoutName } from "./words.js";

const SHOWN = 30;
const TARGETS = 50;
const FIGURES = ["in flight", "queued", "connections", "p50", "p95", "p99", "ejections"];
const RANK = { ejected: 0, probing: 1, partly: 2, ejected_by_operator: 3, up: 4 };

const RECENT = 60000; // ms for which an error is recent

const hasRecentError = (target) => Boolean(target.last_error) && Date.now() - new Date(target.last_error.time).getTime() < RECENT;
const targetRank = (target) => (RANK[target.state] ?? 0) - (hasRecentError(target) ? 0.5 : 0);
const worst = (upstream) => Math.min(5, ...upstream.targets.map(targetRank));

/** Paint the panel. */
export function paintUpstreams({ upstreams }) {
  if (!upstreams) return;
  const wanted = byId("upstreams-search").value.trim().toLowerCase();
  const matches = (upstream) =>
    upstream.name.toLowerCase().includes(wanted) ||
    upstream.targets.some((target) => `${target.target} ${target.url} ${target.state}`.toLowerCase().includes(wanted));
  const all = upstreams.upstreams;
  const found = all.filter(matches).sort((one, other) => worst(one) - worst(other) || one.name.localeCompare(other.name));
  const shown = found.slice(0, SHOWN);
  setText(
    byId("upstreams-count"),
    wanted ? `${grouped(found.length)} found of ${grouped(all.length)}` : shown.length < all.length ? `${shown.length} of ${grouped(all.length)}, failing first` : plural(all.length, "upstream"),
  );
  byId("upstreams-search").hidden = all.length < 2 && !wanted;
  keyed(byId("upstreams"), shown, (upstream) => upstream.name, newUpstream, paintUpstream);
}

function newUpstream(upstream) {
  return h("article", { class: "upstream", "aria-label": `Upstream ${upstream.name}` }, h("h3", {}, upstream.name, " ", h("small")), h("ul", { class: "targets" }), h("p", { class: "hint" }));
}

function paintUpstream(box, upstream) {
  const retries = upstream.retry?.attempts > 1 ? `, ${upstream.retry.attempts} attempts` : "";
  const apps = upstream.apps.slice(0, 3).join(", ");
  const more = upstream.app_count > 3 ? ` and ${grouped(upstream.app_count - 3)} more` : "";
  setText(box.querySelector("small"), `${String(upstream.balance ?? "").replaceAll("_", " ")}${retries} · ${upstream.app_count ? `used by ${apps}${more}` : "used by no app"}`);
  const shown = [...upstream.targets].sort((one, other) => targetRank(one) - targetRank(other)).slice(0, TARGETS);
  keyed(box.querySelector("ul"), shown, (target) => target.target, newTarget, (item, target) => paintTarget(item, target, upstream));
  const hidden = upstream.targets.length - shown.length;
  box.lastChild.hidden = hidden === 0;
  setText(box.lastChild, `and ${plural(hidden, "more target")}, all of them up`);
}

function newTarget() {
  return h(
    "li",
    {},
    h("div", { class: "target-head" }, h("span", { class: "badge" }), h("strong"), h("span", { class: "url" }), h("span", { class: "tags" }), h("button", { type: "button", class: "small" })),
    h("p", { class: "why" }),
    h(
      "dl",
      { class: "figures" },
      ...FIGURES.map((name) => h("div", {}, h("dt", {}, name), h("dd"))),
    ),
    h("p", { class: "last-error" }),
  );
}

/** The reason for the state, in one line. */
function stateReason(target) {
  const words = [];
  if (target.state && target.state !== "up") words.push(`${STATES[target.state] ?? target.state}${target.since ? ` since ${when(target.since)} (${ago(target.since)})` : ""}`);
  if (target.reason) words.push(withoutName(target.target, target.reason));
  if (target.ejected_for?.length) words.push(`ejected for ${target.ejected_for.join(", ")}`);
  if (target.not_up_at?.length) words.push(`at ${target.not_up_at.length} of ${plural(target.replicas, "gateway")}: ${target.not_up_at.join(", ")}`);
  if (target.workers > 1 && target.workers_ejected) words.push(`in ${target.workers_ejected} of ${target.workers} workers`);
  if (target.retry_in_seconds !== null && target.retry_in_seconds !== undefined) words.push(`next probe in ${Math.ceil(target.retry_in_seconds)} s`);
  return words.join(" · ");
}

function paintTarget(item, target, upstream) {
  const [head, reasonBox, figures, last] = item.children;
  const [badge, name, url, tags, button] = head.children;
  badge.dataset.state = target.state;
  setText(badge, target.state === "ejected_by_operator" ? "ejected" : (target.state ?? "unknown")); // the line below says by whom
  setText(name, target.target);
  setText(url, target.url);
  url.title = target.url;
  setText(tags, [target.backup ? "backup" : "", target.weight > 1 ? `weight ${target.weight}` : ""].filter(Boolean).join(", "));
  const reason = stateReason(target);
  reasonBox.hidden = !reason;
  setText(reasonBox, reason);
  const forFleet = target.fleet_max_connections ? `, of ${grouped(target.fleet_max_connections)} for the fleet` : ""; // what comes before is a share
  const connections = `${grouped(target.connections)} of ${grouped(target.max_connections)}${forFleet}`;
  const times = [target.p50_ms, target.p95_ms, target.p99_ms].map((time) => (time ? ms(time) : null));
  const values = [grouped(target.in_flight), target.queued ? grouped(target.queued) : null, connections, ...times, target.ejections ? grouped(target.ejections) : null];
  [...figures.children].forEach((figure, at) => {
    figure.hidden = values[at] === null;
    setText(figure.lastChild, values[at] ?? "");
  });
  figures.children[1].classList.toggle("bad", target.queued > 0);
  last.hidden = !target.last_error;
  last.classList.toggle("fresh", hasRecentError(target));
  if (target.last_error) setText(last, `Last error ${when(target.last_error.time)}: ${withoutName(target.target, target.last_error.text)}`);
  const restore = ["ejected_by_operator", "ejected", "probing"].includes(target.state);
  setText(button, restore ? "Restore …" : "Eject …");
  button.setAttribute("aria-label", `${restore ? "Restore" : "Eject"} ${target.target} of ${upstream.name}`);
  button.onclick = () => (restore ? askToRestore(upstream, target) : askToEject(upstream, target));
}

const path = (upstream, target, what) => `/api/upstreams/${encodeURIComponent(upstream.name)}/${encodeURIComponent(target.target)}/${what}`;

/** What is said where the other gateways do not know the order yet. */
const unpublished = ({ fleet }) => (fleet && !fleet.published ? ` The other gateways obey when the state is back: ${fleet.error}.` : "");

function askToEject(upstream, target) {
  const others = upstream.targets.filter((other) => other !== target && (other.state === "up" || other.state === "partly"));
  confirmAction({
    title: `Eject ${target.target}?`,
    text: [
      `It gets no more hooks of ${upstream.name} until you restore it, ${inFleet() ? "at all gateways of the fleet, also at those that start later" : "in all workers and across reloads. A restart of the gateway restores it"}. Hooks it is processing now are still answered.`,
      others.length ? null : `It is the last available target of ${upstream.name}: the fallback will decide every hook of ${plural(upstream.app_count, "app")}.`,
    ],
    danger: true,
    button: "Eject it",
    path: path(upstream, target, "eject"),
    done: (answer) => `${target.target} is ${answer.result ?? "ejected"}.${answer.warning ? ` ${answer.warning}` : ""}${unpublished(answer)}`,
  });
}

function askToRestore(upstream, target) {
  confirmAction({
    title: `Restore ${target.target}?`,
    text: [`It gets hooks of ${upstream.name} again immediately. If it keeps failing, the breaker ejects it again.`],
    button: "Restore it",
    path: path(upstream, target, "restore"),
    done: (answer) => `${target.target} is ${answer.result ?? "restored"}.${unpublished(answer)}`,
  });
}
