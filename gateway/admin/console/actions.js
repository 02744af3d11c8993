// Orders to the gateway: always asked for once more, with the admin token.

import { keepToken, post, token } from "./api.js";
import { byId, h, toast } from "./dom.js";

let current = null;
let configured = null; // whether an admin token is configured; null until known
let after = () => {};

/** Whether the gateway has an admin token: without one it takes no orders from browsers. */
export function tokenIsConfigured(known) {
  configured = known;
}

/** Called after each order that was carried out. */
export function onDone(callback) {
  after = callback;
}

/** Ask for an order: `{title, text: [..], button, danger, path, done(answer)}`; `path` null asks for the token alone. */
export function order(wanted) {
  current = wanted;
  const refused = wanted.path !== null && configured === false;
  byId("order-title").textContent = wanted.title;
  byId("order-text").replaceChildren(...wanted.text.filter(Boolean).map((line) => h("p", {}, line)));
  if (refused) {
    byId("order-text").append(
      h("p", { class: "warning" }, "This gateway has no admin token, and without one it takes no orders from a browser: any page that you have open could give them. Set ", h("code", {}, "admin.token"), " in the configuration and reload, or give the order on the gateway’s own host:"),
      h("pre", {}, `curl -X POST ${location.origin}${wanted.path}`),
    );
  }
  const needsToken = !refused && !token();
  byId("order-token-label").hidden = !needsToken;
  byId("order-token-hint").hidden = !needsToken;
  byId("order-token").required = needsToken;
  byId("order-token").value = "";
  byId("order-error").hidden = true;
  const button = byId("order-do");
  button.hidden = refused;
  button.disabled = false;
  button.textContent = wanted.button;
  button.className = wanted.danger ? "danger" : "primary";
  byId("order-cancel").textContent = refused ? "Close" : "Cancel";
  if (!byId("order").open) byId("order").showModal();
  if (needsToken) byId("order-token").focus();
}

async function carryOut() {
  const wanted = current;
  const given = byId("order-token").value.trim();
  if (given) keepToken(given);
  if (wanted.path === null) {
    byId("order").close();
    wanted.done();
    return;
  }
  byId("order-do").disabled = true;
  try {
    const answer = await post(wanted.path);
    byId("order").close();
    toast(wanted.done(answer));
  } catch (error) {
    if (error.status === 401) {
      keepToken(null);
      order(wanted);
      complain("The token was not accepted.");
    } else complain(error.status ? error.message : "The gateway did not answer; nothing is known of what became of the order.");
  } finally {
    byId("order-do").disabled = false;
    after();
  }
}

function complain(text) {
  byId("order-error").textContent = text;
  byId("order-error").hidden = false;
}

/** Make the dialog work; once. */
export function setUpOrders() {
  byId("order-form").addEventListener("submit", (event) => {
    event.preventDefault();
    carryOut();
  });
  byId("order-cancel").addEventListener("click", () => byId("order").close());
}
