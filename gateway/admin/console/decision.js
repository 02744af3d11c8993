// One decision told from its beginning to what the media server does with it.

import { get } from "./api.js";
import { spanOf, timeline } from "./charts.js";
import { byId, h } from "./dom.js";
import { ignored, remarks } from "./insights.js";
import { REASONS, SOURCES, clock, dateAndClock, isFailure, ms, plural, reasonColour, reasonLabel } from "./words.js";

let shown = null;

/** Open the story of the hook with this request id; `known` is what the list has of it already. */
export async function openStory(id, known) {
  shown = id;
  const dialog = byId("story");
  if (known) paint(known);
  else byId("story-body").replaceChildren(h("p", { class: "empty" }, "Asking the gateway …"));
  if (!dialog.open) dialog.showModal();
  try {
    const call = await get(`/api/calls/${encodeURIComponent(id)}`);
    // What a candidate said may have come after the decision.
    if (shown === id && (!known || (call.time === known.time && call.shadow && !known.shadow))) paint(call);
  } catch (error) {
    if (shown !== id || known) return;
    const text = error.status === 404 ? "The journal no longer has this decision. The log does: look for its request id." : `It could not be fetched: ${error.message}`;
    byId("story-body").replaceChildren(h("p", { class: "empty" }, text), h("p", {}, h("code", {}, id)));
  }
}

/** Close it, if it is open. */
export function closeStory() {
  shown = null;
  if (byId("story").open) byId("story").close();
}

/** The first sentence. */
function headline(call) {
  const verdict = { allow: "Allowed", reject: "Refused", error: "Not accepted as a hook" }[call.verdict] ?? call.verdict;
  return `${verdict}, ${SOURCES[call.source] ?? call.source}`;
}

function paint(call) {
  const failed = isFailure(call);
  byId("story-title").textContent = `${call.method ?? "Hook"} of ${call.app}`;
  const attempts = call.attempts ?? [];
  byId("story-body").replaceChildren(
    h(
      "div",
      { class: `verdict ${failed ? "failed" : ""}`, "data-verdict": call.verdict },
      h("p", { class: "headline" }, headline(call)),
      h("p", {}, `${dateAndClock(call.time)}.${clock(call.time, true).slice(-3)} · took ${ms(call.duration_ms)}${call.budget_ms ? ` of a budget of ${ms(call.budget_ms)}` : ""}`),
      call.error ? h("p", { class: "cause" }, h("span", { class: `chip chip-${reasonColour(call.reason)}` }, reasonLabel(call.reason)), " ", call.error) : h("p", { class: "cause" }, REASONS[call.reason]?.text ?? reasonLabel(call.reason)),
      ignored(call),
    ),
    h("h3", {}, attempts.length > 1 ? "What happened, attempt by attempt" : "What happened"),
    ...happened(call, attempts),
    h("h3", {}, "What the media server got"),
    h("p", {}, answered(call)),
    h("h3", {}, "What it does with it"),
    h("p", { class: "means" }, call.means ?? "Not known."),
    ...remarks(call),
    h("h3", {}, "Which hook it was"),
    facts(call),
    h("p", { class: "story-links" }, ...links(call)),
  );
}

function happened(call, attempts) {
  const before = [];
  if (call.rule) before.push(h("p", {}, call.source === "rule" ? `Rule ${call.rule} decided; no backend was asked.` : `Rule ${call.rule} met, and chose the upstream.`));
  if (call.failed_over_from) before.push(h("p", { class: "cause" }, `Upstream ${call.failed_over_from} gave no verdict (${call.failover_cause}), so ${call.upstream ?? "another"} was asked in its place.`));
  return [...before, ...(call.source === "rule" ? [] : asked(call, attempts))];
}

function asked(call, attempts) {
  if (!attempts.length) {
    const words = call.source === "duplicate" ? "The same hook had come before: the backend was not asked again." : "No backend was asked.";
    return [h("p", {}, words)];
  }
  const coloured = attempts.map((attempt) => ({ ...attempt, colour: reasonColour(attempt.outcome) }));
  return [
    h("div", { class: "timeline-box" }, timeline({ duration: call.duration_ms, budget: call.budget_ms, attempts: coloured })),
    h("p", { class: "hint timeline-key" }, timelineKey(call)),
    h("ol", { class: "attempts" }, ...attempts.map(attemptItem)),
  ];
}

function timelineKey(call) {
  const span = spanOf(call.duration_ms, call.budget_ms);
  if (!call.budget_ms) return `From 0 to ${ms(span)}.`;
  return span < call.budget_ms ? `From 0 to ${ms(span)}, early in its budget of ${ms(call.budget_ms)}.` : `From 0 to ${ms(span)}; the dashed line is the end of its budget.`;
}

function attemptItem(attempt) {
  const waited = attempt.queued_ms > 0 ? `, ${ms(attempt.queued_ms)} of it waiting for a connection` : "";
  return h(
    "li",
    {},
    h("div", {}, h("span", { class: "faint" }, attempt.upstream, " "), h("strong", {}, attempt.target), " ", h("span", { class: `chip chip-${reasonColour(attempt.outcome)}` }, reasonLabel(attempt.outcome))),
    h("div", {}, `began after ${ms(attempt.began_ms)}, took ${ms(attempt.duration_ms)}${waited}`),
    attempt.error ? h("div", { class: "cause" }, attempt.error) : null,
  );
}

function answered(call) {
  const status = `HTTP ${call.status}`;
  if (call.verdict === "allow" && call.repaired) return `${status} with the backend’s JSON object, without what stood around it`;
  if (call.verdict === "allow" && call.client_config === "enforced") return `${status} with the backend’s answer, and the settings added that make refusals count`;
  if (call.verdict === "allow" && call.substituted) return `${status} with the hook’s own body: the backend answered ${call.substituted}, and an event is delivered so too`;
  if (call.verdict === "allow") return call.source === "backend" ? `${status} with the backend’s answer, byte for byte` : call.source === "duplicate" ? `${status} with the answer that the first one got` : `${status} with the hook’s own body: nothing is overwritten`;
  if (call.verdict === "reject") return `${status} with an empty body`;
  return `${status} with a description of what was wrong (application/problem+json)`;
}

function facts(call) {
  const rows = [
    ["Call id", call.call_id, true],
    ["Session id", call.session_id, true],
    ["Request id", call.request_id, true],
    ["Caller", call.caller],
    ["Callee", call.callee],
    ["Media server", call.node_id],
    ["Upstream", call.upstream],
    ["Target", call.target],
    ["On backends", call.upstream_ms === null || call.upstream_ms === undefined ? null : `${ms(call.upstream_ms)} in ${plural((call.attempts ?? []).length, "attempt")}`],
    ["Worker", call.worker === null || call.worker === undefined ? null : `pid ${call.worker}`],
  ];
  return h("dl", { class: "facts" }, ...rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value, copied]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("span", { class: copied ? "id" : "" }, value), copied ? copyButton(name, value) : null))));
}

function copyButton(name, value) {
  const button = h("button", { type: "button", class: "small quiet", "aria-label": `Copy the ${name.toLowerCase()}` }, "copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(value);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(button.previousSibling); // no clipboard over plain HTTP: ready for Ctrl-C
      button.textContent = "selected";
    }
  });
  return button;
}

function links(call) {
  const to = (filters, text) => h("a", { href: `#/decisions?${new URLSearchParams(filters)}` }, text);
  return [
    call.call_id ? to({ call_id: call.call_id }, "All of this call") : null,
    call.session_id ? to({ session_id: call.session_id }, "All of this session") : null,
    to({ app: call.app, failures: "1" }, "Failures of this app"),
    call.target ? to({ upstream: call.upstream, target: call.target }, "All of this target") : null,
  ].filter(Boolean);
}

