// The view of all round trips: a table that the server sorts, filters and cuts into pages.
import {
  MISSING, address, arrow, duration, element, fillTable, minute, number, percent, price, quantity, second, tone, untrusted,
} from "./format.js";
import { getJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const ROWS = 100; // of a page
const TYPING = 300; // ms without a key before a search

const COLUMNS = [
  ["Time in", "", "entry-time"], ["Time out", "", "exit-time"], ["Symbol", "", "symbol"], ["Side", "", "side"],
  ["Quantity", "n", "qty"], ["Entry", "n", "entry-price"], ["Exit", "n", "exit-price"], ["Result", "n", "pnl"],
  ["% of notional", "n", "return"], ["Duration", "n", "duration"], ["Fees", "n", "fees"],
  ["Funding", "n", "funding"], ["Entry reason", "reason", "reason"], ["Exit reason", "reason", "exit-reason"],
  ["Headline", "reason", "headline"],
];

let run = "";
let offset = 0;
let order = { sort: "entry-time", order: "descending" };
let asked = 0; // number of the latest request; the others are out of date
let drawn = ""; // the answer that is shown, with its order and page
let typing = null;

const filters = () => ({
  symbol: byId("trades-symbol").value, side: byId("trades-side").value, result: byId("trades-result").value,
  search: byId("trades-search").value.trim(),
});

function query(more = {}) {
  const given = Object.entries({ ...filters(), ...order, ...more }).filter(([, value]) => value !== "");
  return new URLSearchParams(given).toString();
}

async function load({ quiet = false } = {}) {
  asked += 1;
  const request = asked;
  const path = `api/v1/runs/${encodeURIComponent(run)}`;
  byId("trades-csv").href = address(`${path}/trades.csv?${query()}`);
  if (!quiet) byId("trades-table").setAttribute("aria-busy", "true");
  byId("trades-summary").setAttribute("aria-live", quiet ? "off" : "polite"); // reads answers to the reader's own acts
  try {
    const table = await getJson(`${path}/trade-table?${query({ offset, limit: ROWS })}`);
    if (request !== asked) return;
    byId("trades-error").hidden = true;
    const text = JSON.stringify([run, order, offset, table]);
    if (text !== drawn) render(table); // a selection of text stays as long as it can
    drawn = text;
  } catch (error) {
    if (request !== asked) return;
    byId("trades-error").replaceChildren(untrusted(error.message));
    byId("trades-error").hidden = false;
  } finally {
    if (request === asked) byId("trades-table").removeAttribute("aria-busy");
  }
}

function render({ total, matching, closed, won, pnl, fees, funding, items }) {
  const of = matching === total ? "" : ` of ${number(total, 0)}`;
  const share = closed ? `, ${percent(won / closed, 1)} won` : "";
  byId("trades-summary").replaceChildren(
    `${number(matching, 0)}${of} round trips, ${number(closed, 0)} closed${share}. Their result is `,
    element("b", { class: tone(Number(pnl)), text: number(Number(pnl), 2, { signed: true }) }),
    `, after fees of ${number(Number(fees))} and funding of ${number(Number(funding), 2, { signed: true })}.`,
  );
  const columns = COLUMNS.map(([title, kind]) => [title, kind]);
  const focused = document.activeElement?.closest("#trades-table [data-sort]")?.dataset.sort;
  const empty = total ? "No round trip matches." : "No round trips yet.";
  fillTable(byId("trades-table"), columns, items.map(row), empty);
  byId("trades-table").querySelectorAll("thead th").forEach(sortable);
  if (focused) byId("trades-table").querySelector(`[data-sort="${focused}"]`)?.focus();
  byId("trades-sort").value = order.sort;
  byId("trades-order").textContent = order.order === "ascending" ? "▲ ascending" : "▼ descending";
  const [first, last] = [items.length ? offset + 1 : 0, offset + items.length];
  byId("trades-page").textContent = `${number(first, 0)}–${number(last, 0)} of ${number(matching, 0)}`;
  byId("trades-back").disabled = offset === 0;
  byId("trades-on").disabled = last >= matching;
}

/** Makes a button of a column's title, with an arrow if the table is sorted by it. */
function sortable(head, index) {
  const [title, , name] = COLUMNS[index];
  const isSorted = order.sort === name;
  const mark = isSorted ? (order.order === "ascending" ? " ▲" : " ▼") : "";
  head.setAttribute("aria-sort", isSorted ? order.order : "none");
  const shown = element("span", { "aria-hidden": "true", text: mark });
  head.replaceChildren(element("button", { type: "button", "data-sort": name, text: title }, shown));
}

const sign = (side) => (side === "BUY" ? "▲ long" : "▼ short");

const time = (ms) => element("time", { datetime: new Date(ms).toISOString(), title: second(ms), text: minute(ms) });

function row({ seq, trade, return_on_notional: share, duration: lasted, headlines }) {
  const profit = Number(trade.pnl);
  const isOpen = trade.exit_ts === null;
  const toned = (text) => element("span", { class: tone(profit), text });
  return { "data-seq": String(seq), cells: [
    time(trade.entry_ts),
    isOpen ? element("span", { class: "quiet", text: "open" }) : time(trade.exit_ts),
    trade.symbol,
    element("span", { class: trade.side === "BUY" ? "up" : "down", text: sign(trade.side) }),
    quantity(Number(trade.qty)),
    price(Number(trade.entry_price)),
    trade.exit_price === null ? MISSING : price(Number(trade.exit_price)),
    toned(`${arrow(profit)} ${number(profit, 2, { signed: true })}`.trim()),
    toned(percent(share, 2, { signed: true })),
    lasted === null ? MISSING : duration(lasted),
    number(Number(trade.fees)),
    number(Number(trade.funding), 2, { signed: true }),
    untrusted(trade.reason),
    untrusted(trade.exit_reason),
    causes(headlines),
  ] };
}

function causes(headlines) {
  if (!headlines.length) return MISSING;
  const [{ title, url }, ...others] = headlines;
  const link = { href: url, target: "_blank", rel: "noopener noreferrer nofollow" };
  const shown = url ? element("a", link, untrusted(title)) : untrusted(title);
  const more = others.length ? element("span", {
    class: "quiet", title: others.map((one) => one.title).join("\n"), text: ` and ${others.length} more`,
  }) : null;
  return element("span", {}, shown, more);
}

function sortBy(name) {
  const isSorted = order.sort === name;
  order = { sort: name, order: isSorted && order.order === "descending" ? "ascending" : "descending" };
  offset = 0;
  load();
}

function setUp() {
  for (const id of ["trades-symbol", "trades-side", "trades-result"]) {
    byId(id).addEventListener("change", () => { offset = 0; load(); });
  }
  byId("trades-search").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { offset = 0; load(); }, TYPING);
  });
  byId("trades-table").addEventListener("click", (event) => {
    const button = event.target.closest("[data-sort]");
    if (!button) return;
    sortBy(button.dataset.sort);
  });
  const options = COLUMNS.map(([title, , name]) => element("option", { value: name, text: title }));
  byId("trades-sort").replaceChildren(...options);
  byId("trades-sort").addEventListener("change", () => sortBy(byId("trades-sort").value));
  byId("trades-order").addEventListener("click", () => sortBy(order.sort));
  byId("trades-form").addEventListener("submit", (event) => event.preventDefault());
  byId("trades-back").addEventListener("click", () => { offset = Math.max(0, offset - ROWS); load(); });
  byId("trades-on").addEventListener("click", () => { offset += ROWS; load(); });
}

let isSetUp = false;

export async function show(shown) {
  if (!isSetUp) setUp();
  isSetUp = true;
  if (run !== shown.run) {
    run = shown.run;
    offset = 0;
    byId("trades-symbol").value = "";
    load();
    try {
      const { run: record } = await getJson(`api/v1/runs/${encodeURIComponent(run)}`);
      if (run !== shown.run) return;
      const symbols = record.config.market?.symbols ?? [];
      const all = byId("trades-symbol").options[0];
      byId("trades-symbol").replaceChildren(all, ...symbols.map((one) => element("option", { text: one })));
    } catch {
      // The table states the error
    }
  } else if (shown.live || !byId("trades-error").hidden) load({ quiet: true });
}

export const refresh = () => load({ quiet: true });
