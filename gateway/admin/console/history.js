// The last three minutes of activity, one sample a second.

const LENGTH = 180;
const SHORTEST = 60; // the charts' span at first, so that they are not almost empty
const SETTLED = 0.9; // seconds of a sample's window from which rates are worth drawing
const CAUSES = ["timeout", "unreachable", "overload", "bad_answer", "error_status"];
export const SERIES = ["ok", "denied", ...CAUSES, "other"];

const sum = (values) => values.reduce((total, value) => total + value, 0);

/** Failing hooks per second: those that neither a backend nor the configuration decided. */
export const failing = (app) => sum(Object.values(app.reasons ?? {}));

/** The hooks of one app, or of all, by the chart's series; each per second. */
export function bySeries(app) {
  const parts = Object.fromEntries(SERIES.map((name) => [name, 0]));
  for (const [reason, value] of Object.entries(app.reasons ?? {})) parts[CAUSES.includes(reason) ? reason : "other"] += value;
  const failed = failing(app);
  const decided = Math.max(0, (app.per_second ?? 0) - failed);
  // Some failing hooks were allowed by the fallback, some kept for later, some were not valid hooks; the rest were rejected.
  const failedAndRejected = Math.max(0, failed - (app.error ?? 0) - (app.allowed_by_fallback ?? 0) - (app.spooled ?? 0));
  parts.denied = Math.min(decided, Math.max(0, (app.reject ?? 0) - failedAndRejected));
  parts.ok = decided - parts.denied;
  return parts;
}

/** The totals of a sample. */
export const totals = (sample) => sample.total ?? {};

/** The samples of the last minutes. */
export class History {
  samples = [];
  #apps = new Map();

  /** Add a sample. */
  add(sample) {
    if (!(sample.window_seconds >= SETTLED)) return;
    this.samples.push({ time: sample.time, parts: bySeries(totals(sample)) });
    if (this.samples.length > LENGTH) this.samples.shift();
    const seen = new Set();
    for (const app of sample.apps) {
      seen.add(app.app);
      this.#push(app.app, app.per_second ?? 0, failing(app));
    }
    for (const name of this.#apps.keys()) if (!seen.has(name)) this.#push(name, 0, 0);
  }

  #push(name, rate, failures) {
    let kept = this.#apps.get(name);
    if (!kept) {
      if (!rate) return;
      this.#apps.set(name, (kept = { rates: [], failures: [] }));
    }
    kept.rates.push(rate);
    kept.failures.push(failures);
    if (kept.rates.length > LENGTH) {
      kept.rates.shift();
      kept.failures.shift();
    }
    if (kept.rates.length === LENGTH && !kept.rates.some(Boolean)) this.#apps.delete(name);
  }

  /** Seconds that the charts show. */
  get span() {
    return Math.max(SHORTEST, this.samples.length);
  }

  /** One app's rates and failures, padded to the whole span. */
  of(name) {
    const kept = this.#apps.get(name) ?? { rates: [], failures: [] };
    const missing = new Array(Math.max(0, this.span - kept.rates.length)).fill(0);
    return { rates: [...missing, ...kept.rates], failures: [...missing, ...kept.failures] };
  }

  /** The chart's series, padded to the whole span. */
  series() {
    const missing = new Array(this.span - this.samples.length).fill(0);
    return SERIES.map((key) => ({ key, colour: key, values: [...missing, ...this.samples.map((sample) => sample.parts[key])] }));
  }
}
