// Everything on the page but the charts, drawn from the rows that the server sent.
import {
  MISSING, address, arrow, clock, duration, el, foreign, minute, moments, number, percent, price, quantity, table, tone,
} from "./format.js";

const byId = (id) => document.getElementById(id);
const spent = (value, text) => el("span", { class: tone(value), text: `${arrow(value)} ${text}`.trim() });

function tile(label, value, beside, kind) {
  return el("div", { class: "tile" }, el("dt", { text: label }), el("dd", { class: kind, text: value }),
    el("dd", { class: "beside" }, ...(beside instanceof Node ? [beside] : [document.createTextNode(beside)])));
}

export function tiles(account, head) {
  const { initial, equity, day: opened, peak, cash, exposure, fees, funding, realised, fills } = account;
  const total = equity - initial;
  const fallen = Math.min(equity / Math.max(peak, equity) - 1, 0);
  const state = { ACTIVE: "active", REDUCING: "reducing", HALTED: "halted" }[account.risk];
  byId("tiles").replaceChildren(
    tile(`Equity, ${head.currency}`, number(equity), spent(total, `${number(total, 2, { signed: true })} since the start`)),
    tile("Today", percent(equity / opened - 1, 2, { signed: true }), spent(equity - opened, number(equity - opened, 2, { signed: true }))),
    tile("Drawdown", percent(fallen), `peak ${number(Math.max(peak, equity))}`, fallen < 0 ? "down" : ""),
    tile("Exposure", percent(equity > 0 ? exposure / equity : 0, 0), `${number(exposure)} gross, cash ${number(cash)}`),
    tile("Costs", number(fees - funding), `fees ${number(fees)}, funding ${number(funding, 2, { signed: true })}`),
    tile("Realised", number(realised, 2, { signed: true }), `${number(fills, 0)} fills`),
    tile("Risk", account.risk, riskText(account), `risk ${state}`),
  );
}

function riskText(account) {
  if (!account.rule) return "no limit reached";
  const why = ["command", "kill"].includes(account.rule) ? `${account.rule === "kill" ? "killed " : ""}by ${account.detail || "a command"}` : `${account.rule}: ${account.detail}`;
  return foreign(`${why}${account.since ? `, since ${minute(account.since)}` : ""}`);
}

export function risk(account) {
  const pill = byId("risk");
  pill.hidden = false;
  pill.textContent = account.warming ? "WARMING UP" : account.risk;
  pill.className = `pill ${account.warming ? "quiet" : account.risk.toLowerCase()}`;
}

/** Three probabilities as one bar, their figures beside it: never by colour alone. */
function chances(low, middle, high, names) {
  const bar = el("span", { class: "chances", title: names.map((name, i) => `${name} ${percent([low, middle, high][i], 0)}`).join(", ") });
  for (const [value, kind] of [[low, "down"], [middle, "flat"], [high, "up"]]) {
    const part = el("i", { class: kind });
    part.style.width = `${100 * value}%`;
    bar.append(part);
  }
  return bar;
}

function opinion(said) {
  if (!said) return el("span", { class: "opinion quiet", text: "not scored yet" });
  if (said.abstained) return el("span", { class: "opinion quiet", text: "the model abstained" });
  const classes = [["bearish", said.bearish, "▼"], ["neutral", said.neutral, "■"], ["bullish", said.bullish, "▲"]];
  const [name, share, sign] = classes.reduce((best, one) => (one[1] > best[1] ? one : best));
  return el("span", { class: "opinion" }, chances(said.bearish, said.neutral, said.bullish, ["bearish", "neutral", "bullish"]),
    el("span", { class: name, text: `${sign} ${name} ${number(share)}` }),
    el("span", { class: "quiet", text: `${number(said.bearish)} · ${number(said.neutral)} · ${number(said.bullish)}` }));
}

export function headlines(rows, state) {
  const shown = [...rows.values()].sort((a, b) => b.at - a.at).slice(0, 40);
  const list = byId("headlines");
  if (!shown.length) {
    list.replaceChildren(el("li", { class: "empty", text: state }));
    return;
  }
  const time = moments(shown);
  list.replaceChildren(...shown.map((row) => {
    const title = row.url
      ? el("a", { href: row.url, target: "_blank", rel: "noopener noreferrer nofollow" }, foreign(row.title))
      : foreign(row.title);
    const about = row.symbols.length ? row.symbols.slice(0, 4).join(", ") : "no traded symbol";
    const late = row.actionable ? null : el("span", { class: "quiet", text: "too old to trade on" });
    return el("li", { "data-id": row.id }, el("p", { class: "title" }, title),
      el("p", { class: "meta" }, time(row.at), foreign(row.source || "unnamed source"), el("span", { text: about }), late),
      opinion(row.opinion));
  }));
}

export function acts(rows) {
  const shown = [...rows.values()].reverse().slice(0, 60);
  const list = byId("acts");
  if (!shown.length) {
    list.replaceChildren(el("li", { class: "empty", text: "Nothing yet: signals, orders, changes of risk and commands appear here." }));
    return;
  }
  const time = moments(shown);
  list.classList.toggle("dated", time.dated);
  list.replaceChildren(...shown.map((row) => el("li", { class: `act ${row.what.replaceAll(" ", "-")}` },
    time(row.at), el("b", { text: row.what }),
    el("span", {}, row.symbol ? el("span", { class: "symbol", text: `${row.symbol} ` }) : null, foreign(row.text)))));
}

export function market(rows, overdue) {
  const columns = [["Symbol"], ["Price", "n"], ["Today", "n"], ["Position", "n"], ["Entry", "n"], ["Value", "n"], ["Open profit", "n"],
    ["Signal"], ["Prediction"]];
  table(byId("market"), columns, [...rows.values()].map((row) => ({
    "data-symbol": row.symbol,
    cells: [
      overdue?.[row.symbol] ? el("span", { title: `the next bar is ${duration(overdue[row.symbol])} overdue`, text: `${row.symbol} ⏱` }) : row.symbol,
      price(row.mark),
      row.change === null ? MISSING : spent(row.change, percent(row.change, 2, { signed: true })),
      row.qty ? spent(row.qty, quantity(row.qty, { signed: true })) : "flat",
      row.qty ? price(row.entry) : MISSING,
      row.qty ? number(row.value) : MISSING,
      row.qty ? spent(row.profit, number(row.profit, 2, { signed: true })) : MISSING,
      signal(row.signal),
      prediction(row.prediction),
    ],
  })), "Waiting for the first bars.");
}

function signal(said) {
  if (!said) return MISSING;
  const value = { BUY: 1, SELL: -1 }[said.direction] ?? 0;
  return el("span", { class: "opinion", title: `at ${minute(said.at)}${said.actionable ? "" : ", not to be traded on"}` },
    chances(said.bearish, said.neutral, said.bullish, ["bearish", "neutral", "bullish"]),
    el("span", { class: said.actionable ? tone(value) : "quiet", text: `${arrow(value)} ${said.direction} ${number(said.confidence)}`.trim() }));
}

function prediction(said) {
  if (!said) return MISSING;
  return el("span", { class: "opinion", title: `at ${minute(said.at)}` }, chances(said.down, said.flat, said.up, ["down", "flat", "up"]),
    el("span", { class: "quiet", text: `${number(said.down)} · ${number(said.flat)} · ${number(said.up)}` }));
}

export function orders(rows) {
  const columns = [["Symbol"], ["Side"], ["Type"], ["Quantity", "n"], ["Filled", "n"], ["Limit", "n"], ["Trigger", "n"], ["Since"], ["Why", "why"]];
  const time = moments(rows);
  table(byId("orders"), columns, rows.map((row) => ({
    "data-id": row.id,
    cells: [row.symbol, side(row.side), `${row.type}${row.reduce_only ? ", reduces" : ""}`.replace("_", " ").toLowerCase(), quantity(row.qty), quantity(row.filled),
      price(row.price), price(row.trigger), time(row.at), foreign(row.reason)],
  })), "No order is working.");
}

const side = (name) => el("span", { class: name === "BUY" ? "up" : "down", text: name === "BUY" ? "▲ buy" : "▼ sell" });

export function trades(rows) {
  const columns = [["Time"], ["Symbol"], ["Side"], ["Quantity", "n"], ["Price", "n"], ["Fee", "n"], ["Profit", "n"], ["Why", "why"]];
  const shown = [...rows.values()].reverse().slice(0, 60);
  const time = moments(shown);
  table(byId("trades"), columns, shown.map((row) => ({
    "data-id": row.id,
    "data-seq": String(row.seq),
    cells: [time(row.at), row.symbol, side(row.side), quantity(row.qty), price(row.price), number(row.fee),
      row.profit === null ? MISSING : spent(row.profit, number(row.profit, 2, { signed: true })), foreign(row.reason)],
  })), "No fill yet.");
}

export function health(state, head) {
  const box = byId("health");
  if (!state.sources) {
    box.replaceChildren(el("p", { class: "empty", text: "The agent is starting." }));
    return;
  }
  const sources = el("table");
  const source = (name, one, indent) => ({ cells: [
    el("span", { class: indent ? "indent" : "" }, foreign(name)), el("span", { class: `state ${one.state.replaceAll(" ", "-")}`, text: one.state }),
    number(one.messages, 0), number(one.reconnects, 0),
    el("span", { title: one.last_error ?? "", text: number(one.errors, 0) }),
  ] });
  table(sources, [["Source"], ["State"], ["Messages", "n"], ["Reconnects", "n"], ["Errors", "n"]],
    [...state.sources.map((one) => source(one.name, one)), ...state.feeds.map((one) => source(one.name, one, true))], "No source runs yet.");
  const latencies = el("table");
  table(latencies, [["Arrived to recorded"], ["Count", "n"], ["p50 ms", "n"], ["p99 ms", "n"]],
    Object.entries(state.latencies).map(([kind, one]) => ({ cells: [kind, number(one.n, 0), number(one.p50_ms, 1), number(one.p99_ms, 1)] })),
    "Nothing was handled live yet.");
  const { depth, high_water, blocked, coalesced, dropped } = state.queue;
  const queue = `Queue: ${number(depth, 0)} waiting, ${number(high_water, 0)} at most; ${number(blocked, 0)} times full; ` +
    `${number(coalesced, 0)} open bars coalesced, ${number(dropped, 0)} headlines dropped.`;
  const store = state.storage.writable ? "" : ` The store can't be written for ${duration(state.storage.failing_s * 1000)}: ${state.storage.error}; nothing is traded until it can.`;
  const closed = state.listeners.map((one) => [one.name, one.displaced + one.refused + one.timed_out, one.denied]).filter(([, lost, denied]) => lost + denied)
    .map(([name, lost, denied]) => `${name}: ${number(lost, 0)} connections closed, ${number(denied, 0)} requests denied`).join("; ");
  const rest = `Up ${duration(state.uptime_s * 1000)}${state.model ? `, model ${state.model}` : ""}${head.endpoint ? `, ${head.endpoint}` : ""}.`;
  box.replaceChildren(el("div", { class: "scroll" }, sources), el("div", { class: "scroll" }, latencies), el("p", { class: "note", text: queue }),
    closed ? el("p", { class: "note", text: `${closed}.` }) : "",
    store ? el("p", { class: "wrong" }, foreign(store)) : "", el("p", { class: "note" }, foreign(rest)));
}

export function runs({ runs: rows, run: living }) {
  const columns = [["Run"], ["Strategy"], ["Begins, market time"], ["Return", "n"], ["Drawdown", "n"], ["Sharpe", "n"], ["Round trips", "n"], ["Events", "n"], ["State"], ["Report"]];
  table(byId("run-table"), columns, rows.map((row) => ({
    cells: [
      el("a", { href: address(`runs/${encodeURIComponent(row.id)}`), text: row.id }),
      el("span", { title: row.symbols.join(", "), text: `${row.strategy}, ${row.kind}` }),
      el("span", { title: `recorded at ${minute(row.started_at)} UTC`, text: minute(row.first_event_at) }),
      row.total_return === null ? MISSING : spent(row.total_return, percent(row.total_return, 2, { signed: true })),
      row.max_drawdown === null ? MISSING : percent(row.max_drawdown, 1),
      number(row.sharpe), number(row.trades, 0), row.events ? number(row.events, 0) : MISSING,
      el("span", { class: row.error ? "why failed" : "" }, [row.id === living ? "running here" : row.status, ...row.stamps].join(", "),
        row.error ? foreign(`: ${row.error}`) : null),
      el("a", { href: address(`runs/${encodeURIComponent(row.id)}/report`), target: "_blank", rel: "noopener", text: "report" }),
    ],
  })), "Nothing is recorded yet: tapewire backtest or tapewire run make the first run.");
}
