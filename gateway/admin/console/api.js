// Requests to the gateway's API, with the operator's token if there is one.

const TOKEN_KEY = "wcs-gateway.token";

/** An answer other than 2xx. */
export class ApiError extends Error {
  constructor(status, text) {
    super(text || `the gateway answered ${status}`);
    this.status = status;
  }
}

let inMemory = null;

/** The token of this browser tab, kept until the tab is closed; null if there is none. */
export function token() {
  try {
    return sessionStorage.getItem(TOKEN_KEY);
  } catch {
    return inMemory;
  }
}

/** Keep a token for this tab, or forget it (null). */
export function keepToken(value) {
  inMemory = value;
  try {
    if (value) sessionStorage.setItem(TOKEN_KEY, value);
    else sessionStorage.removeItem(TOKEN_KEY);
  } catch {
    // kept in memory alone
  }
}

/** Fetch with the token; throws ApiError for any answer but 2xx, TypeError if there is no answer. */
export async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  const secret = token();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  if (!answer.ok) throw new ApiError(answer.status, await errorText(answer));
  return answer;
}

async function errorText(answer) {
  const text = (await answer.text()).trim();
  try {
    const body = JSON.parse(text);
    const problems = body.problems ?? body.detail ?? body.error ?? body.message;
    return Array.isArray(problems) ? problems.join("\n") : String(problems ?? text);
  } catch {
    return text.slice(0, 2000);
  }
}

/** A JSON object; gives up after ten seconds. */
export async function get(path) {
  return (await ask(path, { signal: AbortSignal.timeout(10000) })).json();
}

/** An confirmAction, and the JSON that answers it, if it is JSON. */
export async function post(path) {
  const answer = await ask(path, { method: "POST", signal: AbortSignal.timeout(30000) });
  const text = await answer.text();
  try {
    return JSON.parse(text);
  } catch {
    return { result: text.trim() };
  }
}
