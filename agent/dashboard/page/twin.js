// The run at a venue against its twin on paper: of the running agent from its status, of a recorded run folded again.
import { address, element, fillTable, minute, number, price, quantity, tone, untrusted } from "./format.js";
import { Replay } from "./replays.js";

const byId = (id) => document.getElementById(id);
const DAYS_SHOWN = 14; // more of them are folded away

const toned = (value, digits = 2) =>
  element("span", { class: tone(value), text: number(value, digits, { signed: true }) });

/** Draws the steps that the server has laid out; `unit` is the unit of the amounts. */
function waterfall({ steps, cut }, unit, { digits = 2, totalsSigned = false } = {}) {
  const rows = steps.map((step) => {
    const bar = element("i", { class: step.is_total ? "total" : step.amount > 0 ? "up" : "down" });
    bar.style.marginLeft = `${step.left}%`;
    bar.style.width = `${step.width}%`;
    const amount = step.is_total && !totalsSigned
      ? element("span", { text: number(step.amount, digits) }) : toned(step.amount, digits);
    const label = step.label[0].toUpperCase() + step.label.slice(1);
    return element("tr", { class: step.is_total ? "sum" : "" },
      element("th", { scope: "row", text: label }),
      element("td", { class: "n" }, amount),
      element("td", { class: "bar", "aria-hidden": "true" }, bar));
  });
  const axis = cut === null ? "" : ` The axis is cut: it begins at ${number(cut)}.`;
  return [
    element("table", { class: "waterfall" },
      element("caption", { class: "unseen", text: `From the twin to the venue, ${unit}` }),
      element("tbody", {}, ...rows)),
    element("p", { class: "note", text: `${unit}; a negative amount is worse at the venue. ` +
      `Each bar begins where the one before ends.${axis}` }),
  ];
}

const folded = (title, open, ...content) => {
  const details = element("details", {}, element("summary", { text: title }), ...content);
  details.open = open;
  return details;
};
const scrolled = (table) => element("div", { class: "scroll list" }, table);

function dayTable({ days, causes }) {
  const table = element("table");
  const columns = [["Day"], ["Difference", "n"], ...causes.map((cause) => [cause, "n"])];
  fillTable(table, columns, days.map((day) => ({ cells: [
    day.day, toned(day.difference), ...causes.map((cause) => (cause in day.causes ? toned(day.causes[cause]) : "")),
  ] })), "");
  return table;
}

const parts = (causes) => Object.entries(causes)
  .map(([cause, amount]) => `${cause} ${number(amount, 2, { signed: true })}`).join(", ");

function orderTable(orders) {
  const table = element("table", { class: "twin-orders" });
  const columns = [
    ["Decided"], ["Difference", "n"], ["Order"], ["Quantity", "n"], ["Venue", "n"], ["Twin", "n"], ["Causes", "reason"],
  ];
  fillTable(table, columns, orders.map((order) => ({ cells: [
    minute(order.ts),
    toned(order.difference),
    untrusted(`${order.symbol} ${order.side.toLowerCase()} ${order.type.toLowerCase()}`),
    quantity(order.qty),
    order.venue_price === null ? order.venue_status.toLowerCase() : price(order.venue_price),
    order.paper_price === null ? order.paper_status.toLowerCase() : price(order.paper_price),
    parts(order.causes),
  ] })), "");
  return table;
}

function show(view) {
  const origins = parts(view.origins);
  const of = view.orders.length < view.all_orders
    ? `Orders that differ most (${number(view.orders.length, 0)} of ${number(view.all_orders, 0)})` : "Orders";
  byId("twin").replaceChildren(
    element("p", {}, element("strong", { text: view.headline })),
    element("p", { class: "note" }, untrusted(view.sentences.join(" "))),
    ...waterfall(view.waterfall, `Amounts in ${view.currency}`),
    origins ? element("p", { class: "note", text: `The divergence of positions was opened by: ${origins}.` }) : "",
    folded(`By day (${number(view.days.length, 0)})`, view.days.length <= DAYS_SHOWN, scrolled(dayTable(view))),
    view.orders.length ? folded(of, false, scrolled(orderTable(view.orders))) : "",
    view.notes.length
      ? folded(`Notes (${number(view.notes.length, 0)})`, true,
        element("ul", { class: "notes" }, ...view.notes.map((note) => element("li", {}, untrusted(note)))))
      : "",
    element("p", { class: "note" }, untrusted(`Costs of the twin: ${view.costs}.`)),
  );
}

/** Folds the twin of a recorded run at a venue, and shows it. */
export async function showRecordedTwin(run) {
  byId("twin-panel").hidden = false;
  const job = new Replay(byId("twin-job"), run, "Comparing with the twin");
  const view = await job.start({ work: "twin" });
  if (view) show(view);
}

let shown = "";

/** Shows the twin of the running agent; hidden if it has none. What has not changed keeps its focus. */
export function showLiveTwin(row, run) {
  const text = JSON.stringify([row, run]);
  if (text === shown) return;
  shown = text;
  byId("twin-panel").hidden = !row;
  if (!row) return;
  const { status, waterfall: chart } = row;
  const bps = (value) => number(value, 2, { signed: true });
  const link = element("a", { href: address(`runs/${encodeURIComponent(run)}`), text: "all orders of the run so far" });
  if (status.problem) {
    byId("twin").replaceChildren(
      element("p", { class: "error" }, untrusted(`The twin has ended: ${status.problem}`)),
      element("p", { class: "note" }, "See ", link, "."));
    return;
  }
  if (!chart) {
    byId("twin").replaceChildren(
      element("p", { class: "empty", text: "No order has been compared with paper yet." }));
    return;
  }
  const interval = status.low === null ? "too few orders for an interval"
    : `99 % interval ${bps(status.low)} to ${bps(status.high)}`;
  const allowed = `the model allows ${bps(status.allowed_low)} to ${bps(status.allowed_high)}`;
  const verdict = status.outside ? " Outside of what the model allows." : "";
  byId("twin").replaceChildren(
    element("p", {}, element("strong", {
      class: status.outside ? "down" : "",
      text: `${number(status.orders, 0)} orders differ from paper by ${bps(status.mean_bps)} bps on average.${verdict}`,
    })),
    element("p", { class: "note", text: `${interval}; ${allowed}.` }),
    ...waterfall(chart, "Basis points of the orders' value", { totalsSigned: true }),
    element("p", { class: "note" }, "By day and by order: ", link, "."));
}
