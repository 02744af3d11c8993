// Questions to the gateway, with the operator's token where one was given.

const TOKEN_KEY = "wcs-gateway.token";

/** An answer that is no success. */
export class Refused extends Error {
  constructor(status, text) {
    super(text || `the gateway answered ${status}`);
    this.status = status;
  }
}

let forgotten = null;

/** The token of this browser tab, kept until it is closed; null where none was given. */
export function token() {
  try {
    return sessionStorage.getItem(TOKEN_KEY);
  } catch {
    return forgotten;
  }
}

/** Keep a token for this tab, or forget it (null). */
export function keepToken(value) {
  forgotten = value;
  try {
    if (value) sessionStorage.setItem(TOKEN_KEY, value);
    else sessionStorage.removeItem(TOKEN_KEY);
  } catch {
    // kept in memory alone
  }
}

/** Fetch with the token; throws Refused for anything but a success, TypeError where nobody answers. */
export async function ask(path, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  const secret = token();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  if (!answer.ok) throw new Refused(answer.status, await reasonOf(answer));
  return answer;
}

async function reasonOf(answer) {
  const text = (await answer.text()).trim();
  try {
    const said = JSON.parse(text);
    const problems = said.problems ?? said.detail ?? said.error ?? said.message;
    return Array.isArray(problems) ? problems.join("\n") : String(problems ?? text);
  } catch {
    return text.slice(0, 2000);
  }
}

/** A JSON object; gives up after ten seconds. */
export async function get(path) {
  return (await ask(path, { signal: AbortSignal.timeout(10000) })).json();
}

/** An order, and the JSON that answers it, if it is JSON. */
export async function post(path) {
  const answer = await ask(path, { method: "POST", signal: AbortSignal.timeout(30000) });
  const text = await answer.text();
  try {
    return JSON.parse(text);
  } catch {
    return { result: text.trim() };
  }
}
