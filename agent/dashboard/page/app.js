// The page: live over a WebSocket, or a recorded run as it was at the moment that the slider shows.
import { Candles, Equity, keyText } from "./charts.js";
import { address, arrow, el, here, number, percent, quantity, second, tone } from "./format.js";
import * as panels from "./panels.js";

const RESUME_FROM_KILL = "resume from kill"; // agent/risk.py
const KEPT = { bars: 300, headlines: 80, trades: 200, acts: 100 };
const SILENCE = 4_000; // ms without a word from the agent, which speaks each second
const byId = (id) => document.getElementById(id);

const state = { head: null, account: null, market: new Map(), headlines: new Map(), trades: new Map(), acts: new Map(), orders: [], health: {}, symbol: "" };
let candles = null;
let equity = null;

// -- what the server says ---------------------------------------------------------------------------------------------

function begin(head) {
  state.head = head;
  for (const rows of [state.market, state.headlines, state.trades, state.acts]) rows.clear();
  state.orders = [];
  if (!head.symbols.includes(state.symbol)) state.symbol = head.symbols[0];
  byId("board").hidden = false;
  byId("run").textContent = [`${head.strategy} on ${head.mode === "paper" ? "paper" : `the ${head.mode}`}`, `run ${head.run}`, ...head.stamps].join(" · ");
  candles ??= new Candles(byId("candles"), byId("legend"), head.interval);
  candles.interval = head.interval;
  candles.clear();
  equity ??= new Equity(byId("equity"));
  byId("candles").title = keyText(head.interval);
  for (const draw of Object.values(drawing)) draw();
}

function merge(rows, changed, key, limit) {
  for (const row of changed) {
    rows.delete(row[key]);
    rows.set(row[key], row);
  }
  for (const oldest of [...rows.keys()].slice(0, Math.max(rows.size - limit, 0))) rows.delete(oldest);
}

const drawing = {
  account: () => state.account && (panels.tiles(state.account, state.head), panels.risk(state.account), buttons(), title()),
  market: () => (panels.market(state.market, state.health.overdue), tabs()),
  headlines: () => panels.headlines(state.headlines, state.account?.warming ? "Reading history; headlines follow." : "No headline yet."),
  orders: () => panels.orders(state.orders),
  trades: () => panels.trades(state.trades),
  acts: () => panels.acts(state.acts),
  health: () => panels.health(state.health, state.head),
};

function take(message) {
  if (message.waiting) banner("The agent is starting.");
  if (message.head) begin(message.head);
  if (!state.head) return;
  if (message.account) state.account = message.account;
  if (message.orders) state.orders = message.orders;
  if (message.health) state.health = message.health;
  if (message.market) for (const row of message.market) state.market.set(row.symbol, row);
  merge(state.headlines, message.headlines ?? [], "id", KEPT.headlines);
  merge(state.trades, message.trades ?? [], "id", KEPT.trades);
  merge(state.acts, message.acts ?? [], "key", KEPT.acts);
  for (const [name, draw] of Object.entries(drawing)) if (message[name]) draw();
  if (message.curve) equity.take(message.curve);
  const bars = message.bars?.symbol === state.symbol ? message.bars : null;
  if (bars) candles.take(bars, KEPT.bars);
  if (message.trades || message.headlines || bars?.all || bars?.rows.length) {
    candles.mark(
      [...state.trades.values()].filter((trade) => trade.symbol === state.symbol),
      [...state.headlines.values()].filter((headline) => headline.symbols.includes(state.symbol)),
    );
  }
  if (message.head || message.account) warming();
}

function warming() {
  if (live.lost) return;
  if (recorded.failure) {
    banner(`${recorded.failure} What is shown ends there, at ${second(recorded.ends)} (market time).`, "lost");
    return;
  }
  banner(state.account?.warming ? "Reading history to warm up; nothing is traded until that is done." : "");
}

function banner(text, kind = "") {
  const place = byId("banner");
  place.hidden = !text;
  place.textContent = text;
  place.className = `banner ${kind}`;
}

function title() {
  const { account, head } = state;
  document.title = `${number(account.equity)} ${head.currency} · ${account.risk} · Tapewire`;
}

function tabs() {
  byId("chart-title").textContent = state.symbol;
  const shown = state.head.symbols.slice(0, 40).map((symbol) => {
    const row = state.market.get(symbol);
    const change = row?.change ?? null;
    const tab = el("button", { type: "button", role: "tab", "data-symbol": symbol, "aria-selected": String(symbol === state.symbol), text: symbol });
    if (change !== null) tab.append(el("span", { class: tone(change), text: ` ${arrow(change)}${percent(Math.abs(change))}` }));
    return tab;
  });
  byId("tabs").replaceChildren(...shown);
}

function show(symbol) {
  state.symbol = symbol;
  candles.clear();
  tabs();
  if (live.socket) live.wish();
  else recorded.show();
}

byId("tabs").addEventListener("click", (event) => {
  const tab = event.target.closest("[data-symbol]");
  if (tab) show(tab.dataset.symbol);
});
byId("market").addEventListener("click", (event) => {
  const row = event.target.closest("[data-symbol]");
  if (row) show(row.dataset.symbol);
});

// -- live -------------------------------------------------------------------------------------------------------------

const live = {
  socket: null,
  lost: false,
  opened: false,
  heard: 0,
  wait: 500,

  start() {
    byId("buttons").hidden = false;
    setInterval(() => this.watch(), 1_000);
    this.connect();
  },

  connect() {
    const socket = new WebSocket(address("api/live").replace(/^http/, "ws"));
    this.socket = socket;
    socket.onopen = () => {
      this.opened = true;
      this.wish();
    };
    socket.onmessage = (event) => {
      this.heard = Date.now();
      this.wait = 500;
      this.found();
      take(JSON.parse(event.data));
    };
    socket.onclose = () => {
      this.lose("Connection lost: what is shown may be old. Trying again …");
      setTimeout(() => this.again(), this.wait);
      this.wait = Math.min(this.wait * 2, 5_000);
    };
  },

  async again() {
    try {
      const answer = await fetch(address("api/runs"));
      if (answer.status === 401) return location.assign(address("login"));
      if (answer.ok && !this.opened) {
        this.lose("The page loads, but its live connection is refused: a proxy between them must pass WebSockets and the Host header on. Trying again …");
      }
    } catch {
      // not there yet: the socket will say so again
    }
    return this.connect();
  },

  wish() {
    if (this.socket.readyState === WebSocket.OPEN && state.symbol) this.socket.send(JSON.stringify({ symbol: state.symbol }));
  },

  watch() {
    if (this.heard && Date.now() - this.heard > SILENCE && this.socket.readyState === WebSocket.OPEN) {
      this.lose(`No word from the agent for ${Math.round((Date.now() - this.heard) / 1000)} s: what is shown may be old.`);
    }
  },

  lose(text) {
    this.lost = true;
    banner(text, "lost");
    pill("lost", "lost");
    document.body.classList.add("stale");
    buttons();
  },

  found() {
    pill("live", "live");
    if (!this.lost) return;
    this.lost = false;
    document.body.classList.remove("stale");
    buttons();
    warming();
  },
};

function pill(text, kind) {
  const place = byId("link");
  if (place.textContent !== text) place.textContent = text;
  place.className = `pill ${kind}`;
}

// -- commands ---------------------------------------------------------------------------------------------------------

function buttons() {
  const account = state.account;
  const deaf = live.lost || !account;
  byId("pause").disabled = deaf || account.risk !== "ACTIVE";
  byId("resume").disabled = deaf || account.risk === "ACTIVE";
  byId("flatten").disabled = deaf;
  byId("kill").disabled = deaf;
}

const killed = () => state.account.risk === "HALTED" && state.account.rule === "kill";
const held = () => [...state.market.values()].filter((row) => row.qty)
  .map((row) => `${row.symbol} ${quantity(row.qty, { signed: true })}, worth about ${number(Math.abs(row.value))} ${state.head.currency}`);
const working = () => state.orders
  .map((order) => `${order.reduce_only ? "protection: " : ""}${order.side.toLowerCase()} ${quantity(order.qty - order.filled)} ${order.symbol}`);

const words = {
  pause: () => ({
    title: "Pause trading?", yes: "Pause",
    text: "No new position is opened and none is enlarged. Positions stay, with their stops, and may be reduced or closed.", list: held(),
  }),
  resume: () => ({
    title: "Resume trading?", yes: "Resume",
    text: `${killed() ? `The agent was killed by ${state.account.detail}. ` : ""}New positions may be opened again. ` +
      "The drawdown and the daily loss are counted afresh from now.",
    list: held(), phrase: killed() ? RESUME_FROM_KILL : "",
  }),
  flatten: () => ({
    title: "Close all positions?", yes: "Flatten",
    text: held().length
      ? `These are closed at the market price. The strategy may open new ones right after${state.account.risk === "ACTIVE" ? ": pause first to stay flat" : ""}.`
      : "Nothing is held. Entries that are working are cancelled.",
    list: held(),
  }),
  kill: () => ({
    title: "Kill trading?", yes: "Kill",
    text: `Trading is halted at once: ${state.orders.length ? "these orders are cancelled, stops too" : "no order is working"}, and nothing is opened, ` +
      "not after a restart either, until somebody resumes and confirms it." +
      (held().length ? " Positions stay as they are, without protection, unless you close them as well:" : ""),
    list: working(), extra: held().length ? `Close ${held().join("; ")}` : "",
  }),
};

function ask(action) {
  const { title: heading, text, list, yes, extra, phrase } = words[action]();
  byId("confirm-title").textContent = heading;
  byId("confirm-text").textContent = text;
  byId("confirm-list").replaceChildren(...list.map((line) => el("li", { text: line })));
  byId("confirm-yes").textContent = yes;
  byId("confirm-extra").hidden = !extra;
  byId("confirm-extra").querySelector("span").textContent = extra ?? "";
  byId("confirm-flatten").checked = false;
  byId("confirm-phrase").hidden = !phrase;
  byId("confirm-phrase").querySelector("span").textContent = `Type “${phrase}” to confirm:`;
  byId("confirm-typed").value = "";
  byId("confirm-error").hidden = true;
  byId("confirm-yes").disabled = false;
  byId("confirm").dataset.action = action;
  byId("confirm").showModal();
}

async function send(action) {
  const error = byId("confirm-error");
  byId("confirm-yes").disabled = true;
  try {
    const body = JSON.stringify({ action, run: state.head.run, flatten: byId("confirm-flatten").checked, confirm: byId("confirm-typed").value.trim() });
    const answer = await fetch(address("api/command"), { method: "POST", body, headers: { "Content-Type": "application/json" } });
    if (answer.ok) return byId("confirm").close();
    const said = answer.headers.get("Content-Type")?.includes("json") ? await answer.json() : { error: await answer.text() };
    error.textContent = said.hint ? `${said.error} (${said.hint})` : said.error;
  } catch {
    error.textContent = "The agent could not be reached: it was not told.";
  }
  error.hidden = false;
  byId("confirm-yes").disabled = false;
  return undefined;
}

for (const action of Object.keys(words)) byId(action).addEventListener("click", () => ask(action));
byId("confirm-yes").addEventListener("click", () => send(byId("confirm").dataset.action));

// -- a recorded run ---------------------------------------------------------------------------------------------------

const recorded = {
  run: "",
  ends: 0,
  begins: 0,
  marks: [],
  asked: 0,
  failure: "",
  busy: false,
  playing: null,

  async start(run) {
    this.run = run;
    byId("health-panel").hidden = true;
    byId("report").href = address(`runs/${encodeURIComponent(run)}/report`);
    pill("recorded", "quiet");
    let opened = await read(`api/runs/${encodeURIComponent(run)}?again`);
    while (opened && !opened.ready) {
      banner(`Reading the run … ${opened.share ? percent(opened.share, 0) : ""}`);
      await new Promise((resolve) => setTimeout(resolve, 250));
      opened = await read(`api/runs/${encodeURIComponent(run)}`);
    }
    if (!opened) return;
    this.failure = opened.failure;
    pill(opened.failure ? `recorded, ${opened.status}` : "recorded", opened.failure ? "lost" : "quiet");
    byId("to-live").hidden = !opened.live;
    this.begins = opened.begins;
    this.ends = opened.ends;
    this.marks = opened.marks;
    begin(opened.head);
    const slider = byId("moment");
    slider.min = opened.begins;
    slider.max = opened.ends;
    slider.step = 1;
    byId("scrub").hidden = false;
    const wanted = new URLSearchParams(location.search).get("at") ?? "";  // UTC ms, or an ISO time
    slider.value = Number(wanted) || Date.parse(wanted) || opened.ends;
    slider.addEventListener("input", () => (this.stop(), this.show()));
    slider.addEventListener("keydown", (event) => this.key(event));
    byId("before").addEventListener("click", () => this.jump(-1));
    byId("after").addEventListener("click", () => this.jump(1));
    byId("play").addEventListener("click", () => (this.playing ? this.stop() : this.play()));
    this.show();
  },

  /** The picture of the moment; while one is under way, only the last that is asked for comes after it. */
  async show() {
    const slider = byId("moment");
    byId("when").textContent = second(Number(slider.value));
    this.asked = Number(slider.value);
    if (this.busy) return;
    this.busy = true;
    try {
      let shown = null;
      while (shown !== `${this.asked} ${state.symbol}`) {
        shown = `${this.asked} ${state.symbol}`;
        const picture = await read(`api/runs/${encodeURIComponent(this.run)}/at?ts=${this.asked}&symbol=${encodeURIComponent(state.symbol)}`);
        if (!picture) break;
        for (const rows of [state.market, state.headlines, state.trades, state.acts]) rows.clear();
        candles.clear();
        equity.take([[], []]);
        take({ orders: [], ...picture });
        byId("when").dataset.shown = String(this.asked);
      }
    } finally {
      this.busy = false;
    }
    history.replaceState(null, "", `?at=${this.asked}`);
  },

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -60, PageUp: 60 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.move(this.asked + step * state.head.interval);
  },

  move(moment) {
    const slider = byId("moment");
    slider.value = Math.min(Math.max(moment, this.begins), this.ends);
    this.show();
  },

  jump(direction) {
    this.stop();
    const found = direction > 0 ? this.marks.find(([at]) => at > this.asked) : this.marks.findLast(([at]) => at < this.asked);
    this.move(found ? found[0] : direction > 0 ? this.ends : this.begins);
  },

  play() {
    if (this.asked >= this.ends) this.move(this.begins);
    byId("play").textContent = "Stop";
    this.playing = setInterval(() => {
      if (this.asked >= this.ends) this.stop();
      else if (!this.busy) this.move(this.asked + state.head.interval);
    }, 120);
  },

  stop() {
    clearInterval(this.playing);
    this.playing = null;
    byId("play").textContent = "Play";
  },
};

async function read(path) {
  try {
    const answer = await fetch(address(path));
    if (answer.status === 401) {
      location.assign(address("login"));
      return null;
    }
    const said = answer.headers.get("Content-Type")?.includes("json") ? await answer.json() : { error: await answer.text() };
    if (answer.ok) return said;
    banner(said.hint ? `${said.error} (${said.hint})` : said.error, "lost");
  } catch {
    banner("Connection lost: the page's server can't be reached. Load it again once it runs.", "lost");
    pill("lost", "lost");
  }
  return null;
}

// -- which page ---------------------------------------------------------------------------------------------------------

async function listRuns() {
  byId("runs").hidden = false;
  pill("", "quiet");
  byId("link").hidden = true;
  const listed = await read("api/runs");
  if (!listed) return;
  byId("to-live").hidden = !listed.live;
  document.title = "Runs · Tapewire";
  panels.runs(listed);
}

const [place, run] = here();
if (place === "runs" && run) recorded.start(decodeURIComponent(run));
else if (place === "runs") listRuns();
else live.start();
