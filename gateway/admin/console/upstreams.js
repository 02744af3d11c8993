// Upstreams and their targets: state, why, since when, and the buttons to eject and restore them.

import { byId, h, keyed, say } from "./dom.js";
import { STATES } from "./now.js";
import { order } from "./actions.js";
import { ago, grouped, ms, plural, when, without } from "./words.js";

const SHOWN = 30;
const TARGETS = 50;
const FIGURES = ["in flight", "queued", "connections", "p50", "p95", "p99", "ejections"];
const RANK = { ejected: 0, probing: 1, partly: 2, held: 3, up: 4 };

const FRESH = 60000; // ms for which an error is news

const hasFreshError = (target) => Boolean(target.last_error) && Date.now() - new Date(target.last_error.time).getTime() < FRESH;
const rankOf = (target) => (RANK[target.state] ?? 0) - (hasFreshError(target) ? 0.5 : 0);
const worst = (upstream) => Math.min(5, ...upstream.targets.map(rankOf));

/** Paint the panel. */
export function paintUpstreams({ upstreams }) {
  if (!upstreams) return;
  const wanted = byId("upstreams-search").value.trim().toLowerCase();
  const holds = (upstream) =>
    upstream.name.toLowerCase().includes(wanted) ||
    upstream.targets.some((target) => `${target.target} ${target.url} ${target.state}`.toLowerCase().includes(wanted));
  const all = upstreams.upstreams;
  const found = all.filter(holds).sort((one, other) => worst(one) - worst(other) || one.name.localeCompare(other.name));
  const shown = found.slice(0, SHOWN);
  say(
    byId("upstreams-count"),
    wanted ? `${grouped(found.length)} found of ${grouped(all.length)}` : shown.length < all.length ? `${shown.length} of ${grouped(all.length)}, trouble first` : plural(all.length, "upstream"),
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
  say(box.querySelector("small"), `${String(upstream.balance ?? "").replaceAll("_", " ")}${retries} · ${upstream.app_count ? `for ${apps}${more}` : "for no app"}`);
  const shown = [...upstream.targets].sort((one, other) => rankOf(one) - rankOf(other)).slice(0, TARGETS);
  keyed(box.querySelector("ul"), shown, (target) => target.target, newTarget, (item, target) => paintTarget(item, target, upstream));
  const hidden = upstream.targets.length - shown.length;
  box.lastChild.hidden = hidden === 0;
  say(box.lastChild, `and ${plural(hidden, "more target")}, all of them up`);
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

/** What stands behind the state, in one line. */
function whyOf(target) {
  const words = [];
  if (target.state && target.state !== "up") words.push(`${STATES[target.state] ?? target.state}${target.since ? ` since ${when(target.since)} (${ago(target.since)})` : ""}`);
  if (target.why) words.push(without(target.target, target.why));
  if (target.closed_to?.length) words.push(`closed to ${target.closed_to.join(", ")}`);
  if (target.workers > 1 && target.workers_ejected) words.push(`in ${target.workers_ejected} of ${target.workers} workers`);
  if (target.retry_in_seconds !== null && target.retry_in_seconds !== undefined) words.push(`to be tried again in ${Math.ceil(target.retry_in_seconds)} s`);
  return words.join(" · ");
}

function paintTarget(item, target, upstream) {
  const [head, why, figures, last] = item.children;
  const [badge, name, url, tags, button] = head.children;
  badge.dataset.state = target.state;
  say(badge, target.state ?? "unknown");
  say(name, target.target);
  say(url, target.url);
  url.title = target.url;
  say(tags, [target.backup ? "backup" : "", target.weight > 1 ? `weight ${target.weight}` : ""].filter(Boolean).join(", "));
  const reason = whyOf(target);
  why.hidden = !reason;
  say(why, reason);
  const connections = `${grouped(target.connections)} of ${grouped(target.max_connections)}`;
  const times = [target.p50_ms, target.p95_ms, target.p99_ms].map((time) => (time ? ms(time) : null));
  const values = [grouped(target.in_flight), target.queued ? grouped(target.queued) : null, connections, ...times, target.ejections ? grouped(target.ejections) : null];
  [...figures.children].forEach((figure, at) => {
    figure.hidden = values[at] === null;
    say(figure.lastChild, values[at] ?? "");
  });
  figures.children[1].classList.toggle("bad", target.queued > 0);
  last.hidden = !target.last_error;
  last.classList.toggle("fresh", hasFreshError(target));
  if (target.last_error) say(last, `Last error ${when(target.last_error.time)}: ${without(target.target, target.last_error.text)}`);
  const restore = ["held", "ejected", "probing"].includes(target.state);
  say(button, restore ? "Restore …" : "Eject …");
  button.setAttribute("aria-label", `${restore ? "Restore" : "Eject"} ${target.target} of ${upstream.name}`);
  button.onclick = () => (restore ? askToRestore(upstream, target) : askToEject(upstream, target));
}

const path = (upstream, target, what) => `/api/upstreams/${encodeURIComponent(upstream.name)}/${encodeURIComponent(target.target)}/${what}`;

function askToEject(upstream, target) {
  const others = upstream.targets.filter((other) => other !== target && (other.state === "up" || other.state === "partly"));
  order({
    title: `Eject ${target.target}?`,
    text: [
      `It gets no more hooks of ${upstream.name} until you restore it: in all workers, over reloads too. A restart of the gateway forgets it. Hooks that it has now are answered.`,
      others.length ? null : `It is the last target of ${upstream.name} that stands: every hook of ${plural(upstream.app_count, "app")} will get the verdict of its fallback.`,
    ],
    danger: true,
    button: "Eject it",
    path: path(upstream, target, "eject"),
    done: (answer) => `${target.target} is ${answer.result ?? "ejected"}.${answer.warning ? ` ${answer.warning}` : ""}`,
  });
}

function askToRestore(upstream, target) {
  order({
    title: `Restore ${target.target}?`,
    text: [`It gets hooks of ${upstream.name} again at once. If it fails again, the breaker ejects it again.`],
    button: "Restore it",
    path: path(upstream, target, "restore"),
    done: (answer) => `${target.target} is ${answer.result ?? "restored"}.`,
  });
}
