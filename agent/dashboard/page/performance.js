// The view of a run's results: its figures, its round trips in groups, their distributions, the worst drawdowns.
import { MISSING, arrow, duration, element, fillTable, minute, number, percent, tone, untrusted } from "./format.js";
import { getJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const signed = (value, digits = 2) => number(value, digits, { signed: true });
const signedPercent = (value, digits = 2) => percent(value, digits, { signed: true });
const toned = (value, text) =>
  element("span", { class: tone(value), text: `${arrow(value)} ${text}`.trim() });

const TITLES = {
  symbol: "By symbol", side: "By side", "entry reason": "By entry reason", "exit reason": "By exit reason",
  day: "By day of the exit", weekday: "By weekday of the entry", hour: "By hour of the entry, UTC",
};
const ORDER = ["symbol", "side", "exit reason", "entry reason", "weekday", "hour", "day"];

let run = "";
let asked = 0;

async function load() {
  asked += 1;
  const request = asked;
  const error = byId("performance-error");
  try {
    const found = await getJson(`api/v1/runs/${encodeURIComponent(run)}/performance`);
    if (request !== asked) return;
    error.hidden = true;
    byId("performance-body").hidden = false;
    render(found);
  } catch (problem) {
    if (request !== asked) return;
    run = ""; // the next look tries again
    error.replaceChildren(untrusted(problem.message));
    error.hidden = false;
    byId("performance-body").hidden = true;
  }
}

function tile(label, value, note = "", kind = "") {
  return element("div", { class: "tile" }, element("dt", { text: label }),
    element("dd", { class: kind, text: value }), element("dd", { class: "note", text: note }));
}

function tiles({ performance: own, buy_and_hold: hold, trades, ...all }) {
  const held = hold ? `holding ${signedPercent(hold.total_return)}` : "";
  return [
    tile("Total return", signedPercent(own.total_return), held, tone(own.total_return)),
    tile("A year (CAGR)", signedPercent(own.cagr), `volatility ${percent(own.volatility)}`),
    tile("Sharpe ratio", number(own.sharpe), hold ? `holding ${number(hold.sharpe)}` : ""),
    tile("Sortino ratio", number(own.sortino), `Calmar ratio ${number(own.calmar)}`),
    tile("Largest drawdown", percent(own.max_drawdown), hold ? `holding ${percent(hold.max_drawdown)}` : "",
      tone(own.max_drawdown)),
    tile("Final equity", number(all.final_equity), `from ${number(all.initial_equity)}`),
    tile("Time in the market", percent(all.exposure, 1),
      all.turnover === null ? "" : `turnover ${number(all.turnover, 1)} × equity`),
    tile("Round trips", number(trades.trades, 0), `${percent(trades.win_rate, 1)} won, ${all.open_trades} open`),
    tile("Profit factor", number(trades.profit_factor), `expectancy ${signed(trades.expectancy)} a trip`),
    tile("Average win", signed(trades.average_win), `average loss ${signed(trades.average_loss)}`),
    tile("Best", signed(trades.best), `worst ${signed(trades.worst)}`),
    tile("Average duration", trades.average_holding_time === null ? MISSING : duration(trades.average_holding_time)),
    tile("Fees", number(all.fees), `slippage ${number(all.slippage)}, included in prices`),
    tile("Funding", signed(all.funding), all.funding < 0 ? "paid" : all.funding > 0 ? "received" : ""),
  ];
}

function render({ metrics, trades, sleeves, drawdowns, recorded, status }) {
  const from = `${minute(metrics.start)} to ${minute(metrics.end)} UTC`;
  const source = recorded ? "recorded at the run's end" : `the run is ${status}: computed from what is recorded by now`;
  byId("performance-note").textContent = `${from}; ${source}.`;
  byId("performance-tiles").replaceChildren(...tiles(metrics));
  const groups = ORDER.map((name) => [TITLES[name], trades.groups[name]]);
  if (sleeves.length) groups.splice(2, 0, ["By sleeve, with trades among them", sleeves]);
  byId("performance-groups").replaceChildren(...groups.map(([title, rows]) => groupSection(title, rows)));
  distribution(byId("performance-returns"), trades.returns, (value) => percent(value, 1), "Return");
  distribution(byId("performance-durations"), trades.durations, duration, "Duration");
  drawdownTable(drawdowns, metrics.end);
}

function groupSection(title, rows) {
  const columns = [
    [title.replace(/^By /, "").split(/ of |,/)[0]], ["Trips", "n"], ["Won", "n"], ["Result", "n"], ["Mean %", "n"],
    ["Profit factor", "n"], ["Mean duration", "n"], ["Fees", "n"], ["Funding", "n"],
  ];
  const table = element("table", { class: "groups" });
  fillTable(table, columns, rows.map((group) => ({ cells: [
    untrusted(group.label),
    number(group.trades, 0),
    percent(group.wins / group.trades, 0),
    toned(Number(group.pnl), signed(Number(group.pnl))),
    signedPercent(group.mean_return),
    number(group.profit_factor),
    duration(group.mean_duration),
    number(Number(group.fees)),
    signed(Number(group.funding)),
  ] })), "No closed round trips yet.");
  const scroll = { class: "scroll list", tabindex: "0", role: "region", "aria-label": title };
  return element("section", {}, element("h2", { text: title }), element("div", scroll, table));
}

function bounds({ low, high }, format) {
  if (low === null) return `below ${format(high)}`;
  return high === null ? `from ${format(low)}` : `${format(low)} to ${format(high)}`;
}

/** One bar a bin; the numbers are beside it. Empty bins at both ends are left out. */
function distribution(table, bins, format, title) {
  const used = bins.map((bin) => bin.trades > 0);
  const shown = bins.slice(Math.max(used.indexOf(true), 0), used.lastIndexOf(true) + 1);
  const most = Math.max(...shown.map((bin) => bin.trades));
  const columns = [[title], ["Round trips", "n"], ["", "bar"], ["Result", "n"]];
  fillTable(table, columns, shown.map((bin) => {
    const bar = element("i", { class: tone(Number(bin.pnl)) || "flat" });
    bar.style.width = `${(100 * bin.trades) / most}%`;
    return { cells: [
      bounds(bin, format), number(bin.trades, 0), bin.trades ? bar : "", bin.trades ? signed(Number(bin.pnl)) : MISSING,
    ] };
  }), "No closed round trips yet.");
  const empty = table.querySelector("thead th.bar");
  empty?.replaceChildren(element("span", { class: "unseen", text: "Share" }));
}

/** A drawdown that isn't over lasts until `end`, as in the report. */
function drawdownTable(rows, end) {
  const columns = [["Depth"], ["Peak"], ["Lowest"], ["Back at the peak"], ["Length", "n"]];
  fillTable(byId("performance-drawdowns"), columns, rows.map((one) => ({ cells: [
    element("span", { class: "down", text: percent(one.depth) }),
    minute(one.peak),
    minute(one.trough),
    one.recovery === null ? "not yet" : minute(one.recovery),
    duration((one.recovery ?? end) - one.peak),
  ] })), "The account has never been below a peak.");
}

export function show(shown) {
  if (run === shown.run && !shown.live) return;
  run = shown.run;
  load();
}
