// One decision in full: what happened, the answer, and its effect on the call.

import { get } from "./api.js";
import { timelineSpan, timeline } from "./charts.js";
import { byId, h } from "./dom.js";
import { scoped } from "./fleet.js";
import { details, ignoredRejection } from "./insights.js";
import { REASONS, clock, dateAndClock, decidedBy, isFailure, ms, plural, reasonColour, reasonLabel } from "./words.js";

let shown = null;

/** Open the decision with this request id; `known` is the decision from the list, if it is there. */
export async function openDecision(id, known) {
  shown = id;
  const dialog = byId("decision");
  if (known) paint(known);
  else byId("decision-body").replaceChildren(h("p", { class: "empty" }, "Loading …"));
  if (!dialog.open) dialog.showModal();
  try {
    const decision = await get(scoped(`/api/decisions/${encodeURIComponent(id)}`));
    // The candidate may have answered after the decision, and the history knows more than the list.
    const more = (decision.shadow && !known?.shadow) || decision.config_revision || decision.hook_body;
    if (shown === id && (!known || (decision.time === known.time && more))) paint(decision);
  } catch (error) {
    if (shown !== id || known) return;
    const text = error.status === 404 ? `${error.message[0].toUpperCase()}${error.message.slice(1)} for its request id.` : `Could not be loaded: ${error.message}`;
    byId("decision-body").replaceChildren(h("p", { class: "empty" }, text), h("p", {}, h("code", {}, id)));
  }
}

/** Close it, if it is open. */
export function closeDecision() {
  shown = null;
  if (byId("decision").open) byId("decision").close();
}

/** Verdict and source. */
function headline(decision) {
  if (decision.verdict === "error") return "Not a valid hook";
  return `${{ allow: "Allowed", reject: "Rejected" }[decision.verdict] ?? decision.verdict} ${decidedBy(decision)}`;
}

/** The reason with the error, or its meaning; null where the headline says it all. */
function reasonLine({ reason, error }) {
  if (error) return h("p", { class: "cause" }, h("span", { class: `chip chip-${reasonColour(reason)}` }, reasonLabel(reason)), " ", error);
  const text = reason in REASONS ? REASONS[reason].text : reasonLabel(reason);
  return text ? h("p", { class: "cause" }, text) : null;
}

function paint(decision) {
  const failed = isFailure(decision);
  byId("decision-title").textContent = `${decision.method ?? "Hook"} of ${decision.app}`;
  const attempts = decision.attempts ?? [];
  byId("decision-body").replaceChildren(
    h(
      "div",
      { class: `verdict ${failed ? "failed" : ""}`, "data-verdict": decision.verdict },
      h("p", { class: "headline" }, headline(decision)),
      h("p", {}, `${dateAndClock(decision.time)}.${clock(decision.time, true).slice(-3)} · took ${ms(decision.duration_ms)}${decision.budget_ms ? ` of a budget of ${ms(decision.budget_ms)}` : ""}`),
      reasonLine(decision),
      ignoredRejection(decision),
    ),
    h("h3", {}, attempts.length > 1 ? "What happened, by attempt" : "What happened"),
    ...steps(decision, attempts),
    h("h3", {}, "Answer to the media server"),
    h("p", {}, answerText(decision)),
    h("h3", {}, "Effect on the call"),
    h("p", { class: "means" }, decision.means ?? "Unknown."),
    ...details(decision),
    h("h3", {}, "The hook"),
    facts(decision),
    ...bodies(decision),
    h("p", { class: "decision-links" }, ...links(decision)),
  );
}

function steps(decision, attempts) {
  const before = [];
  if (decision.rule) before.push(h("p", {}, decision.source === "rule" ? `Rule ${decision.rule} decided; no backend was contacted.` : `Rule ${decision.rule} matched and selected the upstream.`));
  if (decision.failed_over_from) before.push(h("p", { class: "cause" }, `Upstream ${decision.failed_over_from} gave no verdict (${decision.failover_cause}); the hook failed over to ${decision.upstream ?? "another upstream"}.`));
  return [...before, ...(decision.source === "rule" ? [] : attemptParts(decision, attempts))];
}

function attemptParts(decision, attempts) {
  if (!attempts.length) {
    const words = decision.source === "duplicate" ? "Duplicate of an earlier hook: the backend was not contacted again." : "No backend was contacted.";
    return [h("p", {}, words)];
  }
  const coloured = attempts.map((attempt) => ({ ...attempt, colour: reasonColour(attempt.outcome) }));
  return [
    h("div", { class: "timeline-box" }, timeline({ duration: decision.duration_ms, budget: decision.budget_ms, attempts: coloured })),
    h("p", { class: "hint timeline-key" }, timelineKey(decision)),
    h("ol", { class: "attempts" }, ...attempts.map(attemptItem)),
  ];
}

function timelineKey(decision) {
  const span = timelineSpan(decision.duration_ms, decision.budget_ms);
  if (!decision.budget_ms) return `From 0 to ${ms(span)}.`;
  return span < decision.budget_ms ? `From 0 to ${ms(span)}, of a budget of ${ms(decision.budget_ms)}.` : `From 0 to ${ms(span)}; the dashed line is the end of the budget.`;
}

function attemptItem(attempt) {
  const waited = attempt.queued_ms > 0 ? `, ${ms(attempt.queued_ms)} of that waiting for a connection` : "";
  return h(
    "li",
    {},
    h("div", {}, h("span", { class: "faint" }, attempt.upstream, " "), h("strong", {}, attempt.target), " ", h("span", { class: `chip chip-${reasonColour(attempt.outcome)}` }, reasonLabel(attempt.outcome))),
    h("div", {}, `started after ${ms(attempt.began_ms)}, took ${ms(attempt.duration_ms)}${waited}`),
    attempt.error ? h("div", { class: "cause" }, attempt.error) : null,
  );
}

function answerText(decision) {
  const status = `HTTP ${decision.status}`;
  if (decision.verdict === "allow" && decision.repaired) return `${status} with the backend’s JSON object; text around it was removed`;
  if (decision.verdict === "allow" && decision.client_config === "enforced") return `${status} with the backend’s answer, plus the settings that make rejections stop calls`;
  if (decision.verdict === "allow" && decision.substituted) return `${status} with the hook’s own body: the backend answered ${decision.substituted}, which counts as delivered for an event`;
  if (decision.source === "spool") return `${status} with the hook’s own body: the event is kept, and delivered later`;
  if (decision.verdict === "allow") return decision.source === "backend" ? `${status} with the backend’s answer, byte for byte` : decision.source === "duplicate" ? `${status} with the same answer as the first hook` : `${status} with the hook’s own body, so nothing is changed`;
  if (decision.verdict === "reject") return `${status} with an empty body`;
  return `${status} with an error description (application/problem+json)`;
}

function facts(decision) {
  const rows = [
    ["Call id", decision.call_id, true],
    ["Session id", decision.session_id, true],
    ["Request id", decision.request_id, true],
    ["Caller", decision.caller],
    ["Callee", decision.callee],
    ["Media server", decision.node_id],
    ["Upstream", decision.upstream],
    ["Target", decision.target],
    ["Backend time", decision.upstream_ms === null || decision.upstream_ms === undefined ? null : `${ms(decision.upstream_ms)} in ${plural((decision.attempts ?? []).length, "attempt")}`],
    ["Configuration", decision.config_revision],
    ["Worker", decision.worker === null || decision.worker === undefined ? null : `pid ${decision.worker}`],
  ];
  return h("dl", { class: "facts" }, ...rows.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([name, value, copied]) => h("div", {}, h("dt", {}, name), h("dd", {}, h("span", { class: copied ? "id" : "" }, value), copied ? copyButton(name, value) : null))));
}

/** What the history keeps of the bodies, masked. */
function bodies({ hook_body: hook, answer_body: answer }) {
  const shown = [
    ["Body of the hook, masked", hook],
    ["Body of the answer, masked", answer],
  ].filter(([, body]) => body);
  return shown.flatMap(([title, body]) => [h("h3", {}, title), h("pre", { class: "cut", tabindex: "0", "aria-label": title }, body)]);
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

function links(decision) {
  const to = (filters, text) => h("a", { href: `#/decisions?${new URLSearchParams(filters)}` }, text);
  return [
    decision.call_id ? to({ call_id: decision.call_id }, "All decisions of this call") : null,
    decision.session_id ? to({ session_id: decision.session_id }, "All decisions of this session") : null,
    to({ app: decision.app, failures: "1" }, "Failures of this app"),
    decision.target ? to({ upstream: decision.upstream, target: decision.target }, "All decisions of this target") : null,
  ].filter(Boolean);
}

