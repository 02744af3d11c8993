// Numbers, times and reasons as text.

/** Label, colour and meaning of each reason; the backend's own verdicts first. */
export const REASONS = {
  ok: { label: "allowed", colour: "ok" },
  denied: { label: "denied", colour: "denied" },
  timeout: { label: "timeout", colour: "timeout", text: "no complete answer within the budget" },
  unreachable: { label: "unreachable", colour: "unreachable", text: "connection refused or reset, DNS or TLS failed, or every target is ejected" },
  overload: { label: "overload", colour: "overload", text: "a limit of the gateway was reached" },
  bad_answer: { label: "bad answer", colour: "bad_answer", text: "a 200 that is not one JSON object, is cut short or is too large" },
  error_status: { label: "error status", colour: "error_status", text: "the backend answered neither 200 nor 403" },
  backlog: { label: "backlog", colour: "other", text: "an earlier event of the same call is kept; this one is delivered after it" },
  unknown_app: { label: "unknown app", colour: "other", text: "no app of this name is configured" },
  bad_request: { label: "bad request", colour: "other", text: "the request is not a valid hook" },
  unauthorized: { label: "unauthorized", colour: "other", text: "wrong credentials or signature" },
  internal: { label: "internal error", colour: "internal", text: "a bug in the gateway" },
};

export const reasonLabel = (reason) => REASONS[reason]?.label ?? String(reason).replaceAll("_", " ");
export const reasonColour = (reason) => REASONS[reason]?.colour ?? "other";

const SOURCES = {
  backend: "by the backend",
  fallback: "by the fallback",
  duplicate: "as a duplicate of an earlier hook",
  static: "by the configuration",
  rule: "by a rule",
  spool: "by the spool",
  gateway: "by the gateway",
};

/** Who decided, in words that follow "Allowed" or "Rejected". */
export const decidedBy = ({ source, rule }) => (source === "rule" && rule ? `by rule ${rule}` : (SOURCES[source] ?? String(source)));

export const VERDICTS = { allow: "allowed", reject: "rejected", error: "bad request" };

/** The unit for durations below this many seconds. */
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

/** Milliseconds, with a sensible number of digits. */
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

/** Bytes in a unit: 812 B, 3.4 MB. */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  let size = value;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (size < 999.5 || unit === "GB") return `${unit === "B" || size >= 99.5 ? size.toFixed(0) : size.toFixed(1)} ${unit}`;
    size /= 1000;
  }
  return "–";
}

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

/** An error without the target's name before it, if the name is already shown. */
export const withoutName = (target, text) => (text?.startsWith(`${target}: `) ? text.slice(target.length + 2) : text);

/** Whether this decision is among the failures, as the gateway's log counts them. */
export const isFailure = (decision) => Boolean(decision.error) || decision.verdict === "error" || Boolean(decision.ineffective) || Boolean(decision.repaired);
