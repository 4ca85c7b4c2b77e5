// Requests to the server, and the texts of their errors.
import { address } from "./format.js";

/** The text of an error of the page's routes, or of a problem of the API (RFC 9457). */
export const errorText = ({ error, detail, hint }) => {
  const what = error ?? detail;
  return hint ? `${what} (${hint})` : what;
};

export async function decode(response) {
  const isJson = response.headers.get("Content-Type")?.includes("json");
  return isJson ? response.json() : { error: await response.text() };
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(address(path), options);
  } catch {
    throw new Error("Connection lost. Reload the page when the server is running again.");
  }
  if (response.status === 401) location.assign(address("login"));
  const body = await decode(response);
  if (!response.ok) throw new Error(errorText(body));
  return body;
}

/** Returns the JSON of a path. Throws an Error with a text for the reader. */
export const getJson = (path) => send(path, {});

/** Posts a JSON body; `keepalive` lets the request outlive the page. Throws like `getJson`. */
export function postJson(path, body = {}, { keepalive = false } = {}) {
  const headers = { "Content-Type": "application/json" };
  return send(path, { method: "POST", body: JSON.stringify(body), headers, keepalive });
}
