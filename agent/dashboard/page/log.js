// The view of the log: the running agent's lines as they come, or what happened in a run.
import { element, number, timeRenderer, untrusted } from "./format.js";
import { getJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const ROWS = 200; // of a page, and of lines that are read at once
const TYPING = 300; // ms without a key before a search

let shown = { run: "", live: false };
let limit = ROWS;
let asked = 0;
let typing = null;
let drawn = ""; // the answer that is shown, with its question

const isFiltered = () => byId("log-level").value !== "" || byId("log-search").value.trim() !== "";
const ofAgent = () => shown.live && byId("log-source").value === "agent";

async function load({ quiet = false } = {}) {
  asked += 1;
  const request = asked;
  const given = { level: byId("log-level").value, search: byId("log-search").value.trim(), limit };
  const query = new URLSearchParams(Object.entries(given).filter(([, value]) => value !== ""));
  const path = ofAgent() ? "api/v1/log" : `api/v1/runs/${encodeURIComponent(shown.run)}/activity`;
  try {
    const found = await getJson(`${path}?${query}`);
    if (request !== asked) return;
    byId("log-error").hidden = true;
    byId("log-note").setAttribute("aria-live", quiet ? "off" : "polite"); // reads answers to the reader's own acts
    const text = JSON.stringify([path, given, found]);
    if (text === drawn) return; // a selection of text stays as long as it can
    drawn = text;
    if (ofAgent()) renderLines(found);
    else renderActivity(found);
  } catch (error) {
    if (request !== asked) return;
    byId("log-error").replaceChildren(untrusted(error.message));
    byId("log-error").hidden = false;
  }
}

function renderLines({ first, last, matching, items }) {
  const rows = items.toReversed().map(({ number: id, ts, level, event, fields }) => ({
    id, at: ts, level, what: "", text: event,
    more: Object.entries(fields).map(([name, value]) => `${name}=${value}`).join("  "),
  }));
  const kept = last ? `The agent keeps its latest lines, here number ${number(first, 0)} to ${number(last, 0)}` : "";
  render(rows, matching, kept ? `${kept}, of the levels of log.level.` : "The agent has logged nothing yet.");
}

function renderActivity({ total, omitted, matching, items }) {
  const rows = items.map(({ ts, event, seq, level, what, symbol, text }) => ({
    id: `${event}.${seq}`, at: ts, level, what, text: symbol ? `${symbol}: ${text}` : text, more: "",
  }));
  const left = omitted ? `; the ${number(omitted, 0)} oldest are left out` : "";
  const what = "changes of risk, commands, notes and rejected orders";
  render(rows, matching, total ? `${number(total, 0)} ${what}${left}.` : "Nothing happened in the run: no change of risk, command, note or rejected order.");
}

function render(rows, matching, note) {
  const list = byId("log-lines");
  const time = timeRenderer(rows);
  const empty = element("li", { class: "empty", text: isFiltered() ? "Nothing matches." : "" });
  list.classList.toggle("dated", time.dated);
  list.replaceChildren(...(rows.length ? rows.map((row) => element("li", {
    class: `level-${row.level}`, "data-id": String(row.id),
  },
  time(row.at),
  element("b", { text: row.level }),
  element("span", {}, row.what ? element("span", { class: "symbol", text: `${row.what} ` }) : null,
    untrusted(row.text), row.more ? element("small", {}, untrusted(row.more)) : null))) : [empty]));
  const counted = matching ? `${number(rows.length, 0)} of ${number(matching, 0)} that match. ` : "";
  byId("log-note").textContent = counted + note;
  byId("log-more").hidden = rows.length >= matching || limit >= 1_000;
}

function setUp() {
  for (const id of ["log-level", "log-source"]) {
    byId(id).addEventListener("change", () => { limit = ROWS; load(); });
  }
  byId("log-search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(load, TYPING);
  });
  byId("log-form").addEventListener("submit", (event) => event.preventDefault());
  byId("log-more").addEventListener("click", () => { limit = Math.min(limit + ROWS, 1_000); load(); });
}

let isSetUp = false;

export function show(wanted) {
  if (!isSetUp) setUp();
  isSetUp = true;
  shown = wanted;
  byId("log-source-field").hidden = !shown.live;
  load();
}

export const refresh = () => load({ quiet: true });
