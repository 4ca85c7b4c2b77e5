// Everything on the page except the charts, rendered from the server's rows.
import { driftBlock } from "./drift.js";
import {
  MISSING, address, arrow, duration, element, fillTable, minute, number, percent, price, quantity,
  timeRenderer, tone, untrusted,
} from "./format.js";

const byId = (id) => document.getElementById(id);
const signedNumber = (value, digits = 2) => number(value, digits, { signed: true });
const signedPercent = (value) => percent(value, 2, { signed: true });

/** A text with the colour and the arrow of the value's sign. */
const toned = (value, text) =>
  element("span", { class: tone(value), text: `${arrow(value)} ${text}`.trim() });
const tonedNumber = (value) => toned(value, signedNumber(value));
const tonedPercent = (value) => toned(value, signedPercent(value));

function tile(label, value, note, kind) {
  return element("div", { class: "tile" },
    element("dt", { text: label }),
    element("dd", { class: kind, text: value }),
    element("dd", { class: "note" }, note instanceof Node ? note : document.createTextNode(note)));
}

export function tiles(account, head) {
  const { initial, equity, day: opened, peak, cash, exposure, fees, funding, realised, fills } = account;
  const total = equity - initial;
  const highest = Math.max(peak, equity);
  const drawdown = Math.min(equity / highest - 1, 0);
  const leverage = equity > 0 ? exposure / equity : 0;
  byId("tiles").replaceChildren(
    tile(`Equity, ${head.currency}`, number(equity), toned(total, `${signedNumber(total)} since the start`)),
    tile("Today", signedPercent(equity / opened - 1), tonedNumber(equity - opened)),
    tile("Drawdown", percent(drawdown), `peak ${number(highest)}`, drawdown < 0 ? "down" : ""),
    tile("Exposure", percent(leverage, 0), exposureNote(exposure, cash, head)),
    tile("Costs", number(fees - funding), `fees ${number(fees)}, funding ${signedNumber(funding)}`),
    tile("Realised P&L", signedNumber(realised), `${number(fills, 0)} fills`),
    tile("Risk", account.risk, riskReason(account), `risk ${account.risk.toLowerCase()}`),
  );
}

/** What is sold of a perpetual isn't cash in hand, so cash is only shown of an account that buys and owns. */
function exposureNote(exposure, cash, { margined }) {
  return margined ? `${number(exposure)} gross, on margin` : `${number(exposure)} gross, cash ${number(cash)}`;
}

function riskReason({ rule, detail, since }) {
  if (!rule) return "no limit breached";
  let reason = `${rule}: ${detail}`;
  if (rule === "command") reason = `by ${detail || "a command"}`;
  if (rule === "kill") reason = `killed by ${detail || "a command"}`;
  return untrusted(since ? `${reason}, since ${minute(since)}` : reason);
}

export function risk(account) {
  const pill = byId("risk");
  pill.hidden = false;
  pill.textContent = account.warming ? "WARMING UP" : account.risk;
  pill.className = `pill ${account.warming ? "quiet" : account.risk.toLowerCase()}`;
}

/** Three probabilities as a bar. Callers add the numbers, so that colour isn't the only distinction. */
function probabilities(low, middle, high, names) {
  const title = names.map((name, i) => `${name} ${percent([low, middle, high][i], 0)}`).join(", ");
  const bar = element("span", { class: "probabilities", title });
  for (const [value, kind] of [[low, "down"], [middle, "flat"], [high, "up"]]) {
    const part = element("i", { class: kind });
    part.style.width = `${100 * value}%`;
    bar.append(part);
  }
  return bar;
}

const joined = (...values) => values.map((value) => number(value)).join(" · ");

const sentimentBar = ({ bearish, neutral, bullish }) =>
  probabilities(bearish, neutral, bullish, CLASSES);

const CLASSES = ["bearish", "neutral", "bullish"];
const SIGNS = { bearish: "▼", neutral: "■", bullish: "▲" };
const ASSETS_SHOWN = 8;

const likeliest = (scores) =>
  CLASSES.reduce((best, name) => (scores[name] > scores[best] ? name : best));
const eachShare = (scores) => CLASSES.map((name) => `${name} ${number(scores[name])}`).join(", ");

/** The answer for each asset that a headline names, as chips such as BTC ▼ .82. */
function assetChips(rows) {
  if (!rows?.length) return null;
  const assets = rows.map(([asset, bearish, neutral, bullish]) => ({ asset, bearish, neutral, bullish }));
  const chips = assets.slice(0, ASSETS_SHOWN).map((one) => {
    const name = likeliest(one);
    const shown = ` ${SIGNS[name]} ${number(one[name]).replace(/^0/, "")}`;
    return element("li", { class: `chip ${name}`, title: `${one.asset}: ${eachShare(one)}` },
      untrusted(one.asset),
      element("span", { "aria-hidden": "true", text: shown }),
      element("span", { class: "unseen", text: `: ${eachShare(one)}` }));
  });
  const rest = assets.slice(ASSETS_SHOWN);
  if (rest.length) {
    const title = rest.map((one) => `${one.asset}: ${eachShare(one)}`).join("; ");
    chips.push(element("li", { class: "chip", title, text: `and ${number(rest.length, 0)} more` }));
  }
  return element("ul", { class: "chips", "aria-label": "by asset" }, ...chips);
}

/** The kind of news as a small label. */
function kindLabel(kind, confidence) {
  if (!kind) return null;
  const title = `kind of news: ${kind}${confidence ? `, probability ${number(confidence)}` : ""}`;
  return element("span", { class: "kind", title },
    element("span", { class: "unseen", text: "kind of news: " }), untrusted(kind));
}

function sentiment(scores) {
  if (!scores) return element("span", { class: "score quiet", text: "not scored yet" });
  if (scores.abstained) return element("span", { class: "score quiet", text: "the model abstained" });
  const { bearish, neutral, bullish } = scores;
  const name = likeliest(scores);
  return element("span", { class: "score" }, sentimentBar(scores),
    element("span", { class: name, text: `${SIGNS[name]} ${name} ${number(scores[name])}` }),
    element("span", { class: "quiet", text: joined(bearish, neutral, bullish) }));
}

/** What a slower model made of the first answer: "revised: bearish .71 → bullish .83". */
function revision({ first, opinion, kept }) {
  if (kept) return element("span", { class: "revised quiet", text: "not revised: the slower model abstained" });
  if (!first) return null;
  return element("span", { class: "revised", title: `${answerTitle(first)} → ${answerTitle(opinion)}` },
    element("span", { text: "revised: " }), answer(first), element("span", { text: " → " }), answer(opinion));
}

const answerTitle = (scores) => (scores.abstained ? "abstained" : eachShare(scores));

function answer(scores) {
  if (scores.abstained) return element("span", { text: "abstained" });
  const name = likeliest(scores);
  return element("span", { class: name, text: `${name} ${number(scores[name]).replace(/^0/, "")}` });
}

/** The reason that a language model gave, and why it left a headline to its fallback. */
function reasons(opinion) {
  const shown = [];
  if (opinion?.reason) shown.push(element("q", {}, untrusted(opinion.reason)));
  if (opinion?.fallback) {
    const text = element("span", { text: "the language model didn't answer: " });
    shown.push(element("span", { class: "quiet" }, text, untrusted(opinion.fallback)));
  }
  return shown.length ? element("p", { class: "why" }, ...shown) : null;
}

export function headlines(rows, empty) {
  const shown = [...rows.values()].sort((a, b) => b.at - a.at).slice(0, 40);
  const list = byId("headlines");
  if (!shown.length) {
    list.replaceChildren(element("li", { class: "empty", text: empty }));
    return;
  }
  const time = timeRenderer(shown);
  list.replaceChildren(...shown.map((row) => {
    const link = { href: row.url, target: "_blank", rel: "noopener noreferrer nofollow" };
    const title = row.url ? element("a", link, untrusted(row.title)) : untrusted(row.title);
    const symbols = row.symbols.length ? row.symbols.slice(0, 4).join(", ") : "no traded symbol";
    const stale = row.actionable ? null : element("span", { class: "quiet", text: "too old to trade on" });
    const source = untrusted(row.source || "unknown source");
    const kind = kindLabel(row.opinion?.kind, row.opinion?.kind_confidence);
    const meta = [time(row.at), source, element("span", { text: symbols }), kind, stale];
    return element("li", { "data-id": row.id }, element("p", { class: "title" }, title),
      element("p", { class: "meta" }, ...meta),
      element("div", { class: "answers" },
        sentiment(row.opinion), revision(row), assetChips(row.opinion?.assets)),
      reasons(row.opinion));
  }));
}

export function activity(rows) {
  const shown = [...rows.values()].reverse().slice(0, 60);
  const list = byId("activity");
  if (!shown.length) {
    const text = "No activity yet. Signals, orders, risk changes and commands appear here.";
    list.replaceChildren(element("li", { class: "empty", text }));
    return;
  }
  const time = timeRenderer(shown);
  list.classList.toggle("dated", time.dated);
  list.replaceChildren(...shown.map((row) => {
    const symbol = row.symbol ? element("span", { class: "symbol", text: `${row.symbol} ` }) : null;
    return element("li", { class: `kind-${row.what.replaceAll(" ", "-")}` },
      time(row.at), element("b", { text: row.what }), element("span", {}, symbol, untrusted(row.text)));
  }));
}

export function market(rows, overdue) {
  const columns = [
    ["Symbol"], ["Price", "n"], ["Today", "n"], ["Position", "n"], ["Entry", "n"], ["Value", "n"],
    ["Unrealised P&L", "n"], ["Signal"], ["Prediction"],
  ];
  fillTable(byId("market"), columns, [...rows.values()].map((row) => ({
    "data-symbol": row.symbol,
    cells: [
      symbolName(row.symbol, overdue?.[row.symbol]),
      price(row.mark),
      row.change === null ? MISSING : tonedPercent(row.change),
      row.qty ? toned(row.qty, quantity(row.qty, { signed: true })) : "flat",
      row.qty ? price(row.entry) : MISSING,
      row.qty ? number(row.value) : MISSING,
      row.qty ? tonedNumber(row.profit) : MISSING,
      signal(row.signal),
      prediction(row.prediction),
    ],
  })), "Waiting for the first bars.");
}

/** A button for each symbol with a position. They stay while the table above is drawn anew, so that they can be pressed. */
export function closers(open, onClose) {
  const box = byId("closers");
  box.hidden = !open.length;
  if (box.dataset.open === open.join()) return;
  box.dataset.open = open.join();
  box.replaceChildren("Close one position: ", ...open.map((symbol) => {
    const button = element("button", { type: "button", class: "small", "data-close": symbol, text: symbol });
    button.setAttribute("aria-label", `Close ${symbol}`);
    button.addEventListener("click", () => onClose(symbol));
    return button;
  }));
}

function symbolName(symbol, overdue) {
  if (!overdue) return symbol;
  return element("span", { title: `the next bar is ${duration(overdue)} overdue`, text: `${symbol} ⏱` });
}

function signal(row) {
  if (!row) return MISSING;
  const sign = { BUY: 1, SELL: -1 }[row.direction] ?? 0;
  const text = `${arrow(sign)} ${row.direction} ${number(row.confidence)}`.trim();
  const title = `at ${minute(row.at)}${row.actionable ? "" : ", not actionable"}`;
  return element("span", { class: "score", title },
    sentimentBar(row), element("span", { class: row.actionable ? tone(sign) : "quiet", text }),
    kindLabel(row.kind));
}

function prediction(row) {
  if (!row) return MISSING;
  return element("span", { class: "score", title: `at ${minute(row.at)}` },
    probabilities(row.down, row.flat, row.up, ["down", "flat", "up"]),
    element("span", { class: "quiet", text: joined(row.down, row.flat, row.up) }));
}

const side = (name) =>
  element("span", { class: name === "BUY" ? "up" : "down", text: name === "BUY" ? "▲ buy" : "▼ sell" });

/** The strategies that share the account; hidden if there is only one. */
export function sleeves(rows) {
  byId("sleeves-panel").hidden = !rows.length;
  const columns = [
    ["Sleeve"], ["Strategy"], ["Capital", "n"], ["Equity", "n"], ["Profit", "n"], ["Return", "n"],
    ["Exposure", "n"], ["Positions"], ["Risk"],
  ];
  const held = (row) => Object.entries(row.positions)
    .map(([symbol, qty]) => `${quantity(qty, { signed: true })} ${symbol}`).join(", ");
  fillTable(byId("sleeves"), columns, rows.map((row) => ({
    "data-id": row.name,
    cells: [
      untrusted(row.name),
      untrusted(row.strategy),
      number(row.capital),
      number(row.equity),
      tonedNumber(row.profit),
      tonedPercent(row.profit / row.capital),
      number(row.exposure),
      held(row) || "flat",
      untrusted(row.rule ? `${row.state} by ${row.rule}` : row.state),
    ],
  })), "No sleeves.");
}

export function orders(rows) {
  const columns = [
    ["Symbol"], ["Side"], ["Type"], ["Quantity", "n"], ["Filled", "n"], ["Limit", "n"], ["Trigger", "n"],
    ["Since"], ["Reason", "reason"],
  ];
  const time = timeRenderer(rows);
  fillTable(byId("orders"), columns, rows.map((row) => ({
    "data-id": row.id,
    cells: [
      row.symbol,
      side(row.side),
      `${row.type.replace("_", " ").toLowerCase()}${row.reduce_only ? ", reduce only" : ""}`
        + (row.trail === null ? "" : `, ${row.trail} behind`),
      quantity(row.qty),
      quantity(row.filled),
      price(row.price),
      price(row.trail === null ? row.trigger : null),
      time(row.at),
      untrusted(row.reason),
    ],
  })), "No working orders.");
}

export function fills(rows) {
  const columns = [
    ["Time"], ["Symbol"], ["Side"], ["Quantity", "n"], ["Price", "n"], ["Fee", "n"], ["Realised P&L", "n"],
    ["Reason", "reason"],
  ];
  const shown = [...rows.values()].reverse().slice(0, 60);
  const time = timeRenderer(shown);
  fillTable(byId("fills"), columns, shown.map((row) => ({
    "data-id": row.id,
    "data-seq": String(row.seq),
    cells: [
      time(row.at),
      row.symbol,
      side(row.side),
      quantity(row.qty),
      price(row.price),
      number(row.fee),
      row.profit === null ? MISSING : tonedNumber(row.profit),
      untrusted(row.reason),
    ],
  })), "No fills yet.");
}

export function health(state, head) {
  const box = byId("health");
  if (!state.sources) {
    box.replaceChildren(element("p", { class: "empty", text: "The agent is starting." }));
    return;
  }
  const notes = [queueNote(state.queue), listenersNote(state.listeners), processNote(state, head)];
  const problem = storageProblem(state.storage);
  box.replaceChildren(
    element("div", { class: "scroll" }, sourcesTable(state)),
    element("div", { class: "scroll" }, latencyTable(state.latencies)),
    ...driftBlock(state.model_drift),
    problem ? element("p", { class: "error" }, untrusted(problem)) : "",
    ...notes.filter(Boolean).map((text) => element("p", { class: "note" }, untrusted(text))),
  );
}

function sourcesTable({ sources, feeds }) {
  const table = element("table");
  const columns = [["Source"], ["State"], ["Messages", "n"], ["Reconnects", "n"], ["Errors", "n"]];
  const row = (one, kind) => ({ cells: [
    element("span", { class: kind }, untrusted(one.name)),
    element("span", { class: `state ${one.state.replaceAll(" ", "-")}`, text: one.state }),
    number(one.messages, 0),
    number(one.reconnects, 0),
    element("span", { title: one.last_error ?? "", text: number(one.errors, 0) }),
  ] });
  const rows = [...sources.map((one) => row(one, "")), ...feeds.map((one) => row(one, "indent"))];
  fillTable(table, columns, rows, "No sources yet.");
  return table;
}

function latencyTable(latencies) {
  const table = element("table");
  const columns = [["Arrival to record"], ["Count", "n"], ["p50 ms", "n"], ["p99 ms", "n"]];
  const rows = Object.entries(latencies).map(([kind, one]) => (
    { cells: [kind, number(one.n, 0), number(one.p50_ms, 1), number(one.p99_ms, 1)] }
  ));
  fillTable(table, columns, rows, "No live events yet.");
  return table;
}

function queueNote({ depth, high_water, blocked, coalesced, dropped }) {
  return `Queue: ${number(depth, 0)} waiting (peak ${number(high_water, 0)}), ` +
    `full ${number(blocked, 0)} times; ${number(coalesced, 0)} open bars coalesced, ` +
    `${number(dropped, 0)} headlines dropped.`;
}

function listenersNote(listeners) {
  const notes = listeners
    .map((one) => [one.name, one.displaced + one.refused + one.timed_out, one.denied])
    .filter(([, closed, denied]) => closed + denied)
    .map(([name, closed, denied]) => `${name}: ${number(closed, 0)} connections closed, ` +
      `${number(denied, 0)} requests denied`);
  return notes.length ? `${notes.join("; ")}.` : "";
}

function processNote({ uptime_s: uptime, model, revising_model: reviser }, { endpoint }) {
  const models = `${model ? `, model ${model}` : ""}${reviser ? `, revised by ${reviser}` : ""}`;
  return `Up ${duration(uptime * 1000)}${models}${endpoint ? `, ${endpoint}` : ""}.`;
}

function storageProblem({ writable, failing_s: failing, error }) {
  if (writable) return "";
  return `The store has not been writable for ${duration(failing * 1000)}: ${error}; ` +
    "nothing is traded until it is.";
}

/** The displayed name of a run's status. */
export const statusName = (status) => (status === "interrupted" ? "stopped" : status);

const compared = []; // ids of the ticked runs, the last two

/** A box that ticks a run for the comparison; with two ticked runs the link to it appears. */
function compareBox(id) {
  const box = element("input", { type: "checkbox", value: id, "aria-label": `Compare ${id}` });
  box.addEventListener("change", () => {
    const at = compared.indexOf(id);
    if (at >= 0) compared.splice(at, 1);
    if (box.checked) compared.push(id);
    if (compared.length > 2) {
      const dropped = compared.shift();
      for (const other of byId("run-table").querySelectorAll("input")) if (other.value === dropped) other.checked = false;
    }
    const [a, b] = compared.map(encodeURIComponent);
    byId("compare").hidden = compared.length < 2;
    byId("compare").href = address(compared.length < 2 ? "runs" : `runs/${a}/compare/${b}`);
    byId("compare").textContent = `Compare ${compared.join(" with ")}`;
  });
  return box;
}

export function runs({ runs: rows, run: running }) {
  const columns = [
    ["Run"], ["Strategy"], ["Start, market time"], ["Return", "n"], ["Drawdown", "n"], ["Sharpe", "n"],
    ["Round trips", "n"], ["Events", "n"], ["Status"], ["Report"], ["Compare"],
  ];
  const status = (row) => {
    const text = [row.id === running ? "running here" : statusName(row.status), ...row.stamps].join(", ");
    const error = row.error ? untrusted(`: ${row.error}`) : null;
    return element("span", { class: error ? "reason failed" : "", text }, error);
  };
  fillTable(byId("run-table"), columns, rows.map((row) => {
    const path = `runs/${encodeURIComponent(row.id)}`;
    return { cells: [
      element("a", { href: address(path), text: row.id }),
      element("span", { title: row.symbols.join(", "), text: `${row.strategy}, ${row.kind}` }),
      element("span", {
        title: `recorded at ${minute(row.started_at)} UTC`, text: minute(row.first_event_at),
      }),
      row.total_return === null ? MISSING : tonedPercent(row.total_return),
      row.max_drawdown === null ? MISSING : percent(row.max_drawdown, 1),
      number(row.sharpe),
      number(row.trades, 0),
      row.events ? number(row.events, 0) : MISSING,
      status(row),
      element("a", { href: address(`${path}/report`), target: "_blank", rel: "noopener", text: "report" }),
      compareBox(row.id),
    ] };
  }), "No runs recorded yet. Start one with tapewire backtest or tapewire run.");
}
