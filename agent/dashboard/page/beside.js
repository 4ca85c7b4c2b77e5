// Charts of other symbols beside that of the selected one, if they are switched on.
import { CandleChart } from "./charts.js";
import { element, price } from "./format.js";
import { chosenInterval } from "./intervals.js";
import { getJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const MOST = 3; // charts
const BARS = 120; // of a chart

const charts = new Map(); // by symbol
let asked = 0;

function chartOf(symbol, interval, onSelect) {
  if (!charts.has(symbol)) {
    const name = element("button", { type: "button", class: "small", text: symbol, title: `Select ${symbol}` });
    name.addEventListener("click", () => onSelect(symbol));
    const close = element("span", { class: "note" });
    const box = element("div", { class: "chart", role: "img", "aria-label": `Price of ${symbol}` });
    const part = element("div", {}, element("p", {}, name, " ", close), box);
    byId("beside").append(part);
    const chart = new CandleChart(box, element("p"), interval);
    chart.visible = BARS;
    charts.set(symbol, { part, chart, close });
  }
  return charts.get(symbol);
}

/** Draws up to three symbols after the selected one, until a time (UTC ms; null: now), or removes the charts. */
export async function drawBeside({ run, symbols, interval }, selected, until, onSelect) {
  asked += 1;
  const request = asked;
  byId("beside-choice").hidden = symbols.length < 2;
  const others = byId("chart-beside").checked ? symbols.filter((one) => one !== selected).slice(0, MOST) : [];
  for (const [symbol, { part, chart }] of charts) {
    if (others.includes(symbol)) continue;
    chart.remove();
    part.remove();
    charts.delete(symbol);
  }
  byId("beside").hidden = !others.length;
  const given = { interval: chosenInterval(), limit: BARS, until: until ?? "" };
  const query = Object.entries(given).filter(([, value]) => value !== "");
  for (const symbol of others) {
    const path = `api/v1/runs/${encodeURIComponent(run)}/bars?${new URLSearchParams([["symbol", symbol], ...query])}`;
    const { items } = await getJson(path);
    if (request !== asked) return;
    const shown = chartOf(symbol, interval, onSelect);
    shown.close.textContent = items.length ? price(items.at(-1)[4]) : "no bars yet";
    shown.chart.update({ all: true, rows: items }, BARS);
  }
}
