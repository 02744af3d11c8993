// Actions of an operator: always confirmed in a dialog, with the admin token.

import { keepToken, post, token } from "./api.js";
import { byId, h, toast } from "./dom.js";

let current = null;
let configured = null; // whether an admin token is configured; null until known
let after = () => {};

/** Note whether the gateway has an admin token: without one, it rejects actions from browsers. */
export function setTokenConfigured(known) {
  configured = known;
}

/** Set what is called after each action. */
export function onDone(callback) {
  after = callback;
}

/** Ask to confirm an action: `{title, text: [..], button, danger, path, send(), done(answer)}`; without `send`, the path is posted; with `path` null, only the token is asked for. */
export function confirmAction(wanted) {
  current = wanted;
  const disabled = wanted.path !== null && configured === false;
  byId("action-title").textContent = wanted.title;
  byId("action-text").replaceChildren(...wanted.text.filter(Boolean).map((line) => h("p", {}, line)));
  if (disabled) {
    byId("action-text").append(
      h("p", { class: "warning" }, "This gateway has no admin token. Without one, it accepts no actions from a browser, because any open page could send them. Set ", h("code", {}, "admin.token"), " in the configuration and reload, or run this on the gateway’s host:"),
      h("pre", {}, `curl -X POST ${quoted(location.origin + wanted.path)}`),
    );
  }
  const needsToken = !disabled && !token();
  byId("action-token-label").hidden = !needsToken;
  byId("action-token-hint").hidden = !needsToken;
  byId("action-token").required = needsToken;
  byId("action-token").value = "";
  byId("action-error").hidden = true;
  const button = byId("action-do");
  button.hidden = disabled;
  button.disabled = false;
  button.textContent = wanted.button;
  button.className = wanted.danger ? "danger" : "primary";
  byId("action-cancel").textContent = disabled ? "Close" : "Cancel";
  if (!byId("action").open) byId("action").showModal();
  if (needsToken) byId("action-token").focus();
}

/** An address as a word of a shell. */
const quoted = (address) => (/[?&]/.test(address) ? `'${address.replaceAll("'", "%27")}'` : address);

async function send() {
  const wanted = current;
  const given = byId("action-token").value.trim();
  if (given) keepToken(given);
  if (wanted.path === null) {
    byId("action").close();
    wanted.done();
    return;
  }
  byId("action-do").disabled = true;
  try {
    const answer = await (wanted.send ? wanted.send() : post(wanted.path));
    byId("action").close();
    toast(wanted.done(answer));
  } catch (error) {
    if (error.status === 401) {
      keepToken(null);
      confirmAction(wanted);
      complain("The token was not accepted.");
    } else complain(error.status ? error.message : "The gateway did not answer. It is not known whether the action was carried out.");
  } finally {
    byId("action-do").disabled = false;
    after();
  }
}

function complain(text) {
  byId("action-error").textContent = text;
  byId("action-error").hidden = false;
}

/** Set up the dialog; called once. */
export function setUpActions() {
  byId("action-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("action-cancel").addEventListener("click", () => byId("action").close());
}
