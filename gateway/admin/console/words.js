// How figures, times and causes are said.

/** What each reason means, for people; those of the backend's own verdicts first. */
export const REASONS = {
  ok: { label: "allowed", colour: "ok", text: "the backend allowed it" },
  denied: { label: "denied", colour: "denied", text: "the backend, a rule or the configuration said no" },
  timeout: { label: "timeout", colour: "timeout", text: "no complete answer within the budget" },
  unreachable: { label: "unreachable", colour: "unreachable", text: "refused, reset, DNS, TLS, or every target is ejected" },
  overload: { label: "overload", colour: "overload", text: "a limit of the gateway's own was reached" },
  bad_answer: { label: "bad answer", colour: "bad_answer", text: "a 200 that is not one JSON object, or is cut short or too large" },
  error_status: { label: "error status", colour: "error_status", text: "the backend answered neither 200 nor 403" },
  unknown_app: { label: "unknown app", colour: "other", text: "no app of this name is configured" },
  bad_request: { label: "bad request", colour: "other", text: "what was sent is no hook" },
  unauthorized: { label: "unauthorized", colour: "other", text: "credentials or signature were wrong" },
  internal: { label: "internal error", colour: "internal", text: "a fault of the gateway itself" },
};

export const reasonLabel = (reason) => REASONS[reason]?.label ?? String(reason).replaceAll("_", " ");
export const reasonColour = (reason) => REASONS[reason]?.colour ?? "other";

export const SOURCES = {
  backend: "decided by the backend",
  fallback: "decided by the fallback",
  duplicate: "a repetition: the first one's verdict again",
  static: "decided by the configuration",
  rule: "decided by a rule",
  gateway: "decided by the gateway",
};

export const VERDICTS = { allow: "allowed", reject: "refused", error: "bad request" };

/** Below so many seconds in which unit. */
const DURATION = [
  [60, "s"],
  [3600, "min"],
  [86400, "h"],
  [Infinity, "d"],
];

/** Seconds in one rough unit: 42 s, 7 min, 3 h. */
export function roughly(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return "–";
  let divisor = 1;
  for (const [limit, unit] of DURATION) {
    if (seconds < limit) return `${Math.max(0, Math.floor(seconds / divisor))} ${unit}`;
    divisor = limit;
  }
  return "–";
}

/** Milliseconds, with as many digits as help. */
export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 9999.5) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 999.5) return `${(value / 1000).toFixed(2)} s`;
  if (value >= 99.5) return `${value.toFixed(0)} ms`;
  if (value >= 9.95) return `${value.toFixed(1)} ms`;
  return `${value.toFixed(2)} ms`;
}

/** A rate per second. */
export function rate(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value < 0.095) return "<0.1";
  if (value < 9.95) return value.toFixed(1);
  return grouped(Math.round(value));
}

/** An integer with thin groups. */
export const grouped = (value) =>
  value === null || value === undefined ? "–" : String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");

const two = (value) => String(value).padStart(2, "0");

/** Local wall time of an RFC 3339 text: 02:41:07. */
export function clock(time, withMs = false) {
  if (!time) return "–";
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "–";
  const text = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return withMs ? `${text}.${String(at.getMilliseconds()).padStart(3, "0")}` : text;
}

/** Local date and wall time. */
export function dateAndClock(time) {
  if (!time) return "–";
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return "–";
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(time)}`;
}

/** Clock alone if it is today, else with its date. */
export function when(time) {
  if (!time) return "–";
  return new Date(time).toDateString() === new Date().toDateString() ? clock(time) : dateAndClock(time);
}

/** How long ago. */
export const ago = (time) => (time ? `${roughly((Date.now() - new Date(time).getTime()) / 1000)} ago` : "–");

/** 1 hook, 2 hooks. */
export const plural = (count, one, many = `${one}s`) => `${grouped(count)} ${count === 1 ? one : many}`;

/** An error without the target's name before it, where that stands there already. */
export const without = (target, text) => (text?.startsWith(`${target}: `) ? text.slice(target.length + 2) : text);

/** Whether an operator would look for this decision among the failures, as the gateway's log counts them. */
export const isFailure = (call) => Boolean(call.error) || call.verdict === "error" || Boolean(call.ineffective) || Boolean(call.repaired);
