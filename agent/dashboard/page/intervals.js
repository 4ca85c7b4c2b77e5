// The interval of the price chart: the run's own bars, or longer ones that the server folds.
import { element } from "./format.js";
import { getJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const INTERVALS = { "1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "4h": 14_400_000, "1d": 86_400_000 };
const BARS = 400; // of a chart
const FILLS = { limit: 1_000, pages: 5 }; // whose arrows are drawn

let chosen = ""; // empty: the run's own interval
let asked = 0;

export const chosenInterval = () => chosen;
export const isFolded = () => chosen !== "";
export const foldedInterval = () => INTERVALS[chosen];

/** Offers the intervals that the run's bars can be folded to; `onChange` is called after a choice. */
export function offerIntervals(own, onChange) {
  const longer = Object.entries(INTERVALS).filter(([, ms]) => ms > own && ms % own === 0).map(([name]) => name);
  if (!longer.includes(chosen)) chosen = "";
  const select = byId("chart-interval");
  const ownName = Object.entries(INTERVALS).find(([, ms]) => ms === own)?.[0] ?? "the run's";
  const option = (value, text) => Object.assign(element("option", { text }), { value });
  select.replaceChildren(option("", ownName), ...longer.map((one) => option(one, one)));
  select.value = chosen;
  select.onchange = () => {
    chosen = select.value;
    onChange();
  };
}

/** Chooses the shortest interval of which `BARS` bars span `ms`. */
export function chooseFor(ms) {
  const select = byId("chart-interval");
  const options = [...select.options].map((option) => option.value);
  chosen = options.find((name) => name && INTERVALS[name] * BARS >= ms) ?? options.at(-1) ?? "";
  select.value = chosen;
}

/**
 * Returns bars and fills of a symbol until a time (UTC ms; null: now), and whether later fills are left out;
 * null if another request followed.
 */
export async function readFolded(run, symbol, until) {
  asked += 1;
  const request = asked;
  const path = `api/v1/runs/${encodeURIComponent(run)}`;
  const end = until === null ? {} : { until };
  const query = new URLSearchParams({ symbol, interval: chosen, limit: BARS, ...end });
  const { items } = await getJson(`${path}/bars?${query}`);
  const found = items.length ? await readFills(path, symbol, items[0][0], until) : { fills: [], isCut: false };
  return request === asked ? { bars: items, ...found } : null;
}

async function readFills(path, symbol, since, until) {
  const fills = [];
  const end = until === null ? {} : { until: until + 1 };
  let cursor = {};
  for (let page = 0; page < FILLS.pages; page += 1) {
    const query = new URLSearchParams({ symbol, since, limit: FILLS.limit, ...end, ...cursor });
    const { items, more, cursor: next } = await getJson(`${path}/fills?${query}`);
    fills.push(...items.map(({ fill }) => (
      { at: fill.ts, side: fill.side, qty: Number(fill.qty), price: Number(fill.price) })));
    if (!more) return { fills, isCut: false };
    cursor = { cursor: next };
  }
  return { fills, isCut: true };
}
