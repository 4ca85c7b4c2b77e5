// The page: the running agent over a WebSocket, or a recorded run at the moment that the slider selects.
import { showAgents } from "./agents.js";
import { drawBeside } from "./beside.js";
import { CandleChart, EquityChart, chartHelp } from "./charts.js";
import { address, arrow, element, number, pathParts, percent, quantity, second, tone, untrusted } from "./format.js";
import { chooseFor, foldedInterval, isFolded, offerIntervals, readFolded } from "./intervals.js";
import * as panels from "./panels.js";
import { decode, errorText } from "./requests.js";
import { startResearch } from "./research.js";
import { watchScrolling } from "./scrolling.js";
import { setUpStories } from "./stories.js";
import { showLiveTwin, showRecordedTwin } from "./twin.js";
import { setUpViews, showViews, whenNowIsSelected } from "./views.js";
import { open as openWhatIf, setMoment, setUpWhatIf } from "./what-if.js";

const RESUME_FROM_KILL = "resume from kill"; // the same as in agent/risk.py
const LIMITS = { bars: 300, headlines: 80, trades: 200, acts: 100 };
const LONG_RUN = 4_000; // bars, from which on the chart begins with folded ones
const SYMBOL_TABS = 40; // at most
const SILENCE_LIMIT = 4_000; // ms; the agent sends its health every second
const byId = (id) => document.getElementById(id);

const state = {
  head: null, account: null, strategy: null, orders: [], sleeves: [], health: {}, symbol: "",
  market: new Map(), headlines: new Map(), trades: new Map(), acts: new Map(),
};
let candles = null;
let equity = null;

// -- messages from the server -------------------------------------------------------------------------------

const modeName = (mode) => (mode === "paper" ? "paper trading" : mode);

function startRun(head) {
  state.head = head;
  for (const rows of [state.market, state.headlines, state.trades, state.acts]) rows.clear();
  state.orders = [];
  state.sleeves = [];
  panels.sleeves([]);
  if (!head.symbols.includes(state.symbol)) state.symbol = head.symbols[0];
  byId("board").hidden = byId("moment-board").hidden = false;
  showViews(head.run, { live: live.socket !== null });
  state.strategy = null;
  candles ??= new CandleChart(byId("candles"), byId("legend"), head.interval);
  candles.interval = head.interval;
  candles.clear();
  offerIntervals(head.interval, changeInterval);
  equity ??= new EquityChart(byId("equity"));
  byId("candles").title = chartHelp(head.interval);
  for (const render of Object.values(renderers)) render();
  drawOthers();
}

function mergeRows(rows, changed, key, limit) {
  for (const row of changed) {
    rows.delete(row[key]);
    rows.set(row[key], row);
  }
  for (const oldest of [...rows.keys()].slice(0, Math.max(rows.size - limit, 0))) rows.delete(oldest);
}

const noHeadlines = () =>
  (state.account?.warming ? "Warming up with history; headlines follow." : "No headlines yet.");

/** The strategy that decides, with the beginning of its hash, and since when if it isn't the run's first. */
function strategyName() {
  const { name, source, since, event } = state.strategy ?? { name: state.head.strategy, source: "", event: 0 };
  return [name, event ? source : "", event ? `since ${second(since)}` : ""].filter(Boolean).join(" ");
}

const renderers = {
  strategy: () => {
    const { head, strategy } = state;
    const title = [strategyName(), modeName(head.mode), `run ${head.run}`, ...head.stamps];
    byId("run").textContent = title.join(" · ");
    byId("run").title = strategy ? `source ${strategy.source || "built in"}, ${strategy.params}` : "";
  },
  account: () => {
    if (!state.account) return;
    panels.tiles(state.account, state.head);
    panels.risk(state.account);
    updateButtons();
    updateTitle();
  },
  market: () => {
    panels.market(state.market, state.health.overdue);
    offerClosing();
    renderTabs();
    drawLines();
  },
  headlines: () => panels.headlines(state.headlines, noHeadlines()),
  orders: () => (panels.orders(state.orders), drawLines()),
  sleeves: () => (panels.sleeves(state.sleeves), offerClosing()),
  trades: () => panels.fills(state.trades),
  acts: () => panels.activity(state.acts),
  health: () => {
    panels.health(state.health, state.head);
    if (live.socket) showLiveTwin(state.health.twin, state.head.run);
  },
};

function applyMessage(message) {
  if (message.waiting) showBanner("The agent is starting.");
  if (message.head) startRun(message.head);
  if (!state.head) return;
  if (message.account) state.account = message.account;
  if (message.strategy) state.strategy = message.strategy;
  if (message.orders) state.orders = message.orders;
  if (message.sleeves) state.sleeves = message.sleeves;
  if (message.health) state.health = message.health;
  if (message.market) for (const row of message.market) state.market.set(row.symbol, row);
  mergeRows(state.headlines, message.headlines ?? [], "id", LIMITS.headlines);
  mergeRows(state.trades, message.trades ?? [], "id", LIMITS.trades);
  mergeRows(state.acts, message.acts ?? [], "key", LIMITS.acts);
  for (const [section, render] of Object.entries(renderers)) if (message[section]) render();
  if (message.curve) equity.setCurve(message.curve);
  const bars = message.bars?.symbol === state.symbol && !isFolded() ? message.bars : null;
  if (bars) candles.update(bars, LIMITS.bars);
  const plots = message.plots?.symbol === state.symbol && !isFolded() ? message.plots : null;
  if (plots) candles.updatePlots(plots);
  if (bars || plots) (offerPlots(), drawLines());
  if (isFolded()) return finish(message);
  if (message.trades || message.headlines || bars?.all || bars?.rows.length) {
    candles.setMarkers(
      [...state.trades.values()].filter((trade) => trade.symbol === state.symbol),
      [...state.headlines.values()].filter((headline) => headline.symbols.includes(state.symbol)),
    );
  }
  finish(message);
}

function finish(message) {
  if (message.head || message.account) updateBanner();
}

// -- what is drawn over the candles -------------------------------------------------------------------------

const LINES = { STOP: ["stop", "danger"], TAKE_PROFIT: ["take profit", "up"], LIMIT: ["limit", "muted"] };

/** The price at which an order waits. That of a trailing stop is an estimate from the bars since it was placed. */
function priceOf(order) {
  if (order.trail === null) return order.trigger ?? order.price;
  const isSale = order.side === "SELL";
  const best = candles.bestSince(order.at, isSale);
  const moved = best === null ? null : best + (isSale ? -order.trail : order.trail);
  if (moved === null || order.trigger === null) return moved ?? order.trigger;
  return isSale ? Math.max(moved, order.trigger) : Math.min(moved, order.trigger);
}

function drawLines() {
  if (!candles) return;
  const lines = [];
  const position = state.market.get(state.symbol);
  if (byId("chart-lines").checked) {
    if (position?.qty) lines.push({ price: position.entry, title: position.qty > 0 ? "long" : "short", kind: "accent" });
    for (const order of state.orders.filter((one) => one.symbol === state.symbol)) {
      const [title, kind] = order.trail === null ? LINES[order.type] ?? [] : ["trailing stop ≈", "danger"];
      const at = title ? priceOf(order) : null;
      if (at) lines.push({ price: at, title: `${title} ${quantity(order.qty)}`, kind });
    }
  }
  candles.setLines(lines);
}

/** A box for each line that the strategy plots. */
function offerPlots() {
  const box = byId("chart-plots");
  const names = candles.plotNames;
  if (box.dataset.names === JSON.stringify(names)) return;
  box.dataset.names = JSON.stringify(names);
  box.replaceChildren(...names.map((name) => {
    const tick = element("input", { type: "checkbox" });
    tick.checked = true;
    candles.showPlot(name, true);
    tick.addEventListener("change", () => candles.showPlot(name, tick.checked));
    return element("label", {}, tick, " ", untrusted(name));
  }));
}

byId("chart-lines").addEventListener("change", drawLines);
byId("chart-volume").addEventListener("change", () => candles?.showVolume(byId("chart-volume").checked));

/** Draws folded bars until the moment of the slider, or until now. */
async function drawFolded() {
  const shown = state.symbol;
  try {
    const found = await readFolded(state.head.run, shown, live.socket ? null : playback.moment || null);
    if (!found || shown !== state.symbol || !isFolded()) return;
    candles.interval = foldedInterval();
    candles.visible = found.bars.length;
    candles.update({ all: true, rows: found.bars }, found.bars.length);
    const headlines = [...state.headlines.values()].filter((headline) => headline.symbols.includes(shown));
    candles.setMarkers(found.fills, headlines);
    const note = found.isCut ? `arrows of the first ${number(found.fills.length, 0)} fills only` : "";
    byId("chart-note").textContent = note;
    offerPlots();
    drawLines();
  } catch (error) {
    showBanner(error.message, "lost");
  }
}

function changeInterval() {
  candles.clear();
  byId("chart-note").textContent = "";
  candles.interval = state.head.interval;
  candles.visible = undefined;
  if (isFolded()) drawFolded();
  else if (live.socket) live.sendSelection();
  else playback.show();
  drawOthers();
}

/** Draws the charts of other symbols, at the time that the page shows. */
async function drawOthers() {
  if (!state.head) return;
  try {
    await drawBeside(state.head, state.symbol, live.socket ? null : playback.moment || null, selectSymbol);
  } catch (error) {
    showBanner(error.message, "lost");
  }
}

byId("chart-beside").addEventListener("change", drawOthers);

let isRefreshing = false; // slow answers are waited for, not asked for again

setInterval(async () => {
  if (!live.socket || live.lost || !state.head || document.hidden || isRefreshing) return;
  isRefreshing = true;
  if (isFolded()) await drawFolded();
  if (byId("chart-beside").checked) await drawOthers();
  isRefreshing = false;
}, 5_000);

function updateBanner() {
  if (live.lost) return;
  if (playback.failure) {
    showBanner(`${playback.failure} The recording ends at ${second(playback.ends)} (market time).`, "lost");
    return;
  }
  const warmUp = "Warming up with historical data. Trading starts when this is done.";
  showBanner(state.account?.warming ? warmUp : "");
}

function showBanner(text, kind = "") {
  const banner = byId("banner");
  banner.hidden = !text;
  banner.textContent = text;
  banner.className = `banner ${kind}`;
}

function updateTitle() {
  const { account, head } = state;
  document.title = `${number(account.equity)} ${head.currency} · ${account.risk} · Tapewire`;
}

function renderTabs() {
  byId("chart-title").textContent = state.symbol;
  const left = state.head.symbols.length - SYMBOL_TABS;
  byId("tabs-left").textContent = left > 0 ? `${left} more: select them in Positions and signals` : "";
  const tabs = state.head.symbols.slice(0, SYMBOL_TABS).map((symbol) => {
    const change = state.market.get(symbol)?.change ?? null;
    const selected = String(symbol === state.symbol);
    const tab = element("button", {
      type: "button", role: "tab", "data-symbol": symbol, "aria-selected": selected, text: symbol,
    });
    if (change !== null) {
      const text = ` ${arrow(change)}${percent(Math.abs(change))}`;
      tab.append(element("span", { class: tone(change), text }));
    }
    return tab;
  });
  const shown = [...byId("tabs").children];
  if (shown.map((tab) => tab.dataset.symbol).join() !== tabs.map((tab) => tab.dataset.symbol).join()) {
    byId("tabs").replaceChildren(...tabs);
    return;
  }
  // Tabs stay, so that one can be pressed or focused while prices change
  tabs.forEach((tab, at) => {
    if (shown[at].isEqualNode(tab)) return;
    shown[at].setAttribute("aria-selected", tab.getAttribute("aria-selected"));
    shown[at].replaceChildren(...tab.childNodes);
  });
}

function selectSymbol(symbol) {
  state.symbol = symbol;
  candles.clear();
  renderTabs();
  if (live.socket) live.sendSelection();
  else playback.show();
  if (live.socket && isFolded()) drawFolded();
  drawOthers();
}

for (const id of ["tabs", "market"]) {
  byId(id).addEventListener("click", (event) => {
    const target = event.target.closest("[data-symbol]");
    if (target) selectSymbol(target.dataset.symbol);
  });
}

// -- the running agent --------------------------------------------------------------------------------------

const live = {
  socket: null,
  lost: false,
  opened: false,
  lastMessageAt: 0,
  retryDelay: 500,

  start() {
    byId("buttons").hidden = false;
    setInterval(() => this.checkSilence(), 1_000);
    this.connect();
  },

  connect() {
    const socket = new WebSocket(address("api/live").replace(/^http/, "ws"));
    this.socket = socket;
    socket.onopen = () => {
      this.opened = true;
      this.sendSelection();
    };
    socket.onmessage = (event) => {
      this.lastMessageAt = Date.now();
      this.retryDelay = 500;
      this.markLive();
      applyMessage(JSON.parse(event.data));
    };
    socket.onclose = () => {
      this.markLost("Connection lost. This page may be out of date. Reconnecting …");
      setTimeout(() => this.reconnect(), this.retryDelay);
      this.retryDelay = Math.min(this.retryDelay * 2, 5_000);
    };
  },

  async reconnect() {
    try {
      const response = await fetch(address("api/runs"));
      if (response.status === 401) return location.assign(address("login"));
      if (response.ok && !this.opened) {
        this.markLost(
          "The page loads, but its live connection is refused. " +
          "A proxy in between must forward WebSockets and the Host header. Reconnecting …",
        );
      }
    } catch {
      // The server is still unreachable: the socket's next onclose reports it
    }
    return this.connect();
  },

  sendSelection() {
    if (this.socket.readyState !== WebSocket.OPEN || !state.symbol) return;
    this.socket.send(JSON.stringify({ symbol: state.symbol }));
  },

  checkSilence() {
    const silence = Date.now() - this.lastMessageAt;
    if (this.lastMessageAt && silence > SILENCE_LIMIT && this.socket.readyState === WebSocket.OPEN) {
      const seconds = Math.round(silence / 1000);
      this.markLost(`No data from the agent for ${seconds} s. This page may be out of date.`);
    }
  },

  markLost(text) {
    this.lost = true;
    showBanner(text, "lost");
    setConnection("disconnected", "lost");
    document.body.classList.add("stale");
    updateButtons();
  },

  markLive() {
    setConnection("live", "live");
    if (!this.lost) return;
    this.lost = false;
    document.body.classList.remove("stale");
    updateButtons();
    updateBanner();
  },
};

function setConnection(text, kind) {
  const pill = byId("connection");
  if (pill.textContent !== text) pill.textContent = text;
  pill.className = `pill ${kind}`;
}

// -- commands -----------------------------------------------------------------------------------------------

function updateButtons() {
  const account = state.account;
  const unavailable = live.lost || !account;
  byId("pause").disabled = unavailable || account.risk !== "ACTIVE";
  byId("resume").disabled = unavailable || account.risk === "ACTIVE";
  byId("flatten").disabled = unavailable;
  byId("use-strategy").disabled = unavailable || account.warming;
  byId("kill").disabled = unavailable;
  for (const button of byId("closers").children) button.disabled = unavailable;
}

const isKilled = () => state.account.risk === "HALTED" && state.account.rule === "kill";

/** What each sleeve has of a symbol, and at a venue what none has: [name, quantity], without zeros. */
function shares({ symbol, qty }) {
  const held = state.sleeves.map((row) => [row.name, row.positions[symbol] ?? 0]);
  const rest = held.length ? Number((qty - held.reduce((sum, [, one]) => sum + one, 0)).toFixed(8)) : 0;
  return [...held, ["no sleeve", rest]].filter(([, one]) => one);
}

const describePosition = (row) => {
  const worth = `${number(Math.abs(row.value))} ${state.head.currency}`;
  const each = shares(row).map(([name, qty]) => `${quantity(qty, { signed: true })} of ${name}`).join(", ");
  return `${row.symbol} ${quantity(row.qty, { signed: true })}, worth about ${worth}${each ? ` (${each})` : ""}`;
};
/** Rows with a position, also if those of several sleeves add up to zero. */
const heldRows = () => [...state.market.values()].filter((row) => row.qty || shares(row).length);
const openPositions = () => heldRows().map(describePosition);

function offerClosing() {
  if (live.socket) panels.closers(heldRows().map((row) => row.symbol), closeOne);
}

let closing = ""; // symbol whose position the dialog closes

function closeOne(symbol) {
  closing = symbol;
  openDialog("close");
}

const describeOrder = (order) => {
  const protection = order.reduce_only ? "protection: " : "";
  return `${protection}${order.side.toLowerCase()} ${quantity(order.qty - order.filled)} ${order.symbol}`;
};
const workingOrders = () => state.orders.map(describeOrder);

const dialogs = {
  pause: () => ({
    title: "Pause trading?", confirm: "Pause", list: openPositions(),
    text: "No position will be opened or enlarged. " +
      "Open positions keep their stops and may be reduced or closed.",
  }),
  resume: () => ({
    title: "Resume trading?", confirm: "Resume", list: openPositions(),
    phrase: isKilled() ? RESUME_FROM_KILL : "",
    text: (isKilled() ? `The agent was killed by ${state.account.detail}. ` : "") +
      "New positions may be opened again. Drawdown and daily loss are measured anew from now on.",
  }),
  flatten: () => {
    const pauseFirst = state.account.risk === "ACTIVE" ? "; pause first to stay flat" : "";
    return {
      title: "Close all positions?", confirm: "Flatten", list: openPositions(),
      text: openPositions().length
        ? "These positions will be closed at the market price. " +
          `The strategy may open new ones right away${pauseFirst}.`
        : "No position is open. Working entry orders will be cancelled.",
    };
  },
  "use-strategy": () => ({
    title: "Change the strategy?", confirm: "Change", list: openPositions(), fields: true,
    text: `Now ${strategyName()} decides, with ${state.strategy?.params ?? "its parameters"}. ` +
      "A file is read on the agent's machine. Without a strategy, the parameters of this one are changed. " +
      "The new strategy begins without state; working entries are cancelled. " +
      (openPositions().length ? "Open positions stay, with their protection, unless you close them:" : ""),
    extra: openPositions().length ? `Close ${openPositions().join("; ")}` : "",
  }),
  close: () => ({
    title: `Close ${closing}?`, confirm: `Close ${closing}`,
    list: openPositions().filter((line) => line.startsWith(`${closing} `)),
    text: "This position will be closed at the market price, and the symbol's working entries are cancelled. " +
      "Other positions stay. The strategy may open a new one right away.",
  }),
  kill: () => ({
    title: "Kill trading?", confirm: "Kill", list: workingOrders(),
    text: "Trading is halted at once, and stays halted after a restart, until a resume is confirmed. " +
      (state.orders.length
        ? "These orders will be cancelled, including stops."
        : "There are no working orders.") +
      (openPositions().length ? " Open positions stay, without protection, unless you close them too:" : ""),
    extra: openPositions().length ? `Close ${openPositions().join("; ")}` : "",
  }),
};

function openDialog(action) {
  const { title, text, list, confirm, extra, phrase, fields } = dialogs[action]();
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-list").replaceChildren(...list.map((line) => element("li", { text: line })));
  byId("confirm-yes").textContent = confirm;
  byId("confirm-extra").hidden = !extra;
  byId("confirm-extra").querySelector("span").textContent = extra ?? "";
  byId("confirm-flatten").checked = false;
  byId("confirm-phrase").hidden = !phrase;
  byId("confirm-phrase").querySelector("span").textContent = `Type “${phrase}” to confirm:`;
  byId("confirm-typed").value = "";
  byId("confirm-strategy").hidden = !fields;
  byId("confirm-name").value = byId("confirm-params").value = "";
  byId("confirm-whose").hidden = !state.sleeves.length;
  byId("confirm-sleeve").replaceChildren(...state.sleeves.map((row) => element("option", { text: row.name })));
  byId("confirm-error").hidden = true;
  byId("confirm-yes").disabled = false;
  byId("confirm").dataset.action = action;
  byId("confirm").showModal();
}

/** The strategy and the parameters that were typed, as the fields of a command. */
function typedStrategy() {
  const strategy = byId("confirm-name").value.trim();
  const pairs = byId("confirm-params").value.split(/\s+/).filter(Boolean).map((pair) => pair.split(/=(.*)/s));
  const sleeve = state.sleeves.length ? byId("confirm-sleeve").value : "";
  return { action: strategy ? "use-strategy" : "set-strategy", strategy, sleeve, params: Object.fromEntries(
    pairs.map(([key, value]) => [key, value ?? ""])) };
}

async function sendCommand(action) {
  const error = byId("confirm-error");
  byId("confirm-yes").disabled = true;
  try {
    const body = JSON.stringify({
      ...(action === "use-strategy" ? typedStrategy() : {}),
      ...(action === "close" ? { action: "flatten", symbol: closing } : {}),
      ...(["use-strategy", "close"].includes(action) ? {} : { action }),
      run: state.head.run,
      flatten: byId("confirm-flatten").checked,
      confirm: byId("confirm-typed").value.trim(),
    });
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(address("api/command"), { method: "POST", body, headers });
    if (response.ok) return byId("confirm").close();
    error.textContent = errorText(await decode(response));
  } catch {
    error.textContent = "The agent did not respond. Check its state before you try again.";
  }
  error.hidden = false;
  byId("confirm-yes").disabled = false;
  return undefined;
}

for (const action of Object.keys(dialogs)) byId(action)?.addEventListener("click", () => openDialog(action));
byId("confirm-yes").addEventListener("click", () => sendCommand(byId("confirm").dataset.action));

// -- a recorded run -----------------------------------------------------------------------------------------

const playback = {
  run: "",
  ends: 0,
  begins: 0,
  bookmarks: [],
  moment: 0, // that the slider selects
  failure: "",
  busy: false,
  timer: null,

  async start(run) {
    this.run = run;
    byId("health-panel").hidden = true;
    byId("board").hidden = byId("loading").hidden = false;
    showViews(run, { live: false }); // which need no moment: they are there before the run is read
    byId("report").href = address(`runs/${encodeURIComponent(run)}/report`);
    setConnection("recorded", "quiet");
    let opened = await fetchJson(`api/runs/${encodeURIComponent(run)}?again`);
    while (opened && !opened.ready) {
      if (!state.head) await this.showGlimpse(opened);
      byId("loading").textContent = `Loading the run … ${opened.share ? percent(opened.share, 0) : ""}`;
      await new Promise((resolve) => setTimeout(resolve, 250));
      opened = await fetchJson(`api/runs/${encodeURIComponent(run)}`);
    }
    if (!opened) {
      byId("loading").hidden = true; // the banner states the error
      return;
    }
    run = this.run = opened.head.run; // the address may have the beginning of an id, or `latest`
    byId("loading").hidden = true;
    byId("moment-board").classList.remove("glimpse");
    this.failure = opened.failure;
    if (opened.failure) setConnection(`recorded, ${panels.statusName(opened.status)}`, "lost");
    byId("to-live").hidden = !opened.live;
    this.begins = opened.begins;
    this.ends = opened.ends;
    this.bookmarks = opened.marks;
    const wasShown = state.head !== null;
    startRun(opened.head);
    if (!wasShown) this.chooseInterval();
    const slider = byId("moment");
    slider.min = opened.begins;
    slider.max = opened.ends;
    slider.step = 1;
    byId("playback").hidden = false;
    const at = new URLSearchParams(location.search).get("at") ?? ""; // UTC ms, or an ISO 8601 time
    slider.value = Number(at) || Date.parse(at) || opened.ends;
    slider.addEventListener("input", () => (this.stop(), this.show({ byUser: true })));
    setUpWhatIf({ run, currency: opened.head.currency });
    setUpStories(run, openWhatIf);
    if (opened.has_twin) showRecordedTwin(run);
    slider.addEventListener("keydown", (event) => this.onKey(event));
    byId("before").addEventListener("click", () => this.jump(-1));
    byId("after").addEventListener("click", () => this.jump(1));
    byId("play").addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    this.show();
  },

  /** Shows the whole run from what is recorded, while its events are read. */
  async showGlimpse({ is_read: isRead, glimpse: { head, begins, ends, curve } }) {
    startRun(head);
    byId("moment-board").classList.add("glimpse");
    this.begins = begins;
    this.ends = this.moment = ends;
    equity.setCurve(curve);
    this.chooseInterval();
    if (!isRead) await whenNowIsSelected(); // the other views need no moment
    if (isFolded()) await drawFolded();
  },

  /** A long run begins with bars that show all of it. */
  chooseInterval() {
    if (this.ends - this.begins > LONG_RUN * state.head.interval) chooseFor(this.ends - this.begins);
  },

  /** Shows the selected moment. While a request is in flight, only the latest selection is kept. */
  async show({ byUser = false } = {}) {
    const slider = byId("moment");
    byId("when").textContent = second(Number(slider.value));
    this.moment = Number(slider.value);
    setMoment(this.moment, { byUser });
    if (this.busy) return;
    this.busy = true;
    try {
      let shown = null;
      while (shown !== `${this.moment} ${state.symbol}`) {
        shown = `${this.moment} ${state.symbol}`;
        const query = `ts=${this.moment}&symbol=${encodeURIComponent(state.symbol)}`;
        const page = await fetchJson(`api/runs/${encodeURIComponent(this.run)}/at?${query}`);
        if (!page) break;
        for (const rows of [state.market, state.headlines, state.trades, state.acts]) rows.clear();
        if (!isFolded()) candles.clear();
        equity.setCurve([[], []]);
        applyMessage({ orders: [], ...page });
        if (isFolded()) await drawFolded(); // so that playing doesn't ask faster than the server answers
        await drawOthers();
        byId("when").dataset.shown = String(this.moment);
      }
    } finally {
      this.busy = false;
    }
    history.replaceState(null, "", `?at=${this.moment}${location.hash}`);
  },

  onKey(event) {
    const bars = { ArrowLeft: -1, ArrowRight: 1, PageDown: -60, PageUp: 60 }[event.key];
    if (bars === undefined) return;
    event.preventDefault();
    this.moveTo(this.moment + bars * state.head.interval);
  },

  moveTo(moment) {
    const slider = byId("moment");
    slider.value = Math.min(Math.max(moment, this.begins), this.ends);
    this.show({ byUser: true });
  },

  jump(direction) {
    this.stop();
    const found = direction > 0
      ? this.bookmarks.find(([at]) => at > this.moment)
      : this.bookmarks.findLast(([at]) => at < this.moment);
    this.moveTo(found ? found[0] : direction > 0 ? this.ends : this.begins);
  },

  play() {
    if (this.moment >= this.ends) this.moveTo(this.begins);
    byId("play").textContent = "Stop";
    this.timer = setInterval(() => {
      if (this.moment >= this.ends) this.stop();
      else if (!this.busy) this.moveTo(this.moment + state.head.interval);
    }, 120);
  },

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    byId("play").textContent = "Play";
  },
};

async function fetchJson(path) {
  try {
    const response = await fetch(address(path));
    if (response.status === 401) {
      location.assign(address("login"));
      return null;
    }
    const body = await decode(response);
    if (response.ok) return body;
    showBanner(errorText(body), "lost");
  } catch {
    showBanner("Connection lost. Reload the page when the server is running again.", "lost");
    setConnection("disconnected", "lost");
  }
  return null;
}

// -- start --------------------------------------------------------------------------------------------------

async function listRuns() {
  byId("runs").hidden = false;
  byId("connection").hidden = true;
  const listed = await fetchJson("api/runs");
  if (!listed) return;
  byId("to-live").hidden = !listed.live;
  document.title = "Runs · Tapewire";
  panels.runs(listed);
}

setUpViews(() => candles?.frame());
watchScrolling();
const [section, run] = pathParts();
byId(`to-${section}`)?.setAttribute("aria-current", "page");
if (section === "runs" && run) playback.start(decodeURIComponent(run));
else if (section === "runs") listRuns();
else if (section === "agents") showAgents();
else if (section === "research") startResearch();
else live.start();
