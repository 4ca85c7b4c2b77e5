"use strict";
// The price charts: candles that get shorter as you zoom in, round trips, stops, headlines, plotted lines.
const LADDER = [1, 2, 3, 5, 10, 15, 30].map((minutes) => minutes * 60)
  .concat([1, 2, 4, 6, 8, 12, 24, 48, 72, 168, 336, 672].map((hours) => hours * 3600)); // s
const COARSEST = 600; // candles
const DENSEST = 2; // pixels a candle: with less, the next longer ones are shown
const SPARSEST = 4; // pixels a candle: with more, also of the next shorter ones, those are shown
const DRAWN_LINES = 500; // of trades and stops, if as many are visible
const MANY = 100; // markers, which are smaller from then on
const TEXTS = 5; // about trades and headlines of a candle

/** Folds candles into longer ones of `length` seconds. */
function foldCandles(bars, length) {
  const folded = [];
  for (const bar of bars) {
    const time = bar.time - (bar.time % length), last = folded.at(-1);
    if (last?.time === time) {
      last.high = Math.max(last.high, bar.high);
      last.low = Math.min(last.low, bar.low);
      last.close = bar.close;
      last.volume += bar.volume;
    } else folded.push({ ...bar, time });
  }
  return folded;
}

/** Returns the lists of candles to choose from, the shortest candles first: [{ length (s), bars }]. */
function levelsOf(bars, length) {
  const levels = [{ length, bars }];
  for (const longer of LADDER) {
    const last = levels.at(-1);
    if (last.bars.length <= COARSEST) break;
    if (longer >= 3 * last.length && longer % last.length === 0) {
      levels.push({ length: longer, bars: foldCandles(last.bars, longer) });
    }
  }
  return levels;
}

const showLength = (seconds) => (seconds % 86400 === 0 ? `${seconds / 86400}d`
  : seconds % 3600 === 0 ? `${seconds / 3600}h` : `${seconds / 60}m`);

/** Draws lines from entries to exits, stops, and headlines as ticks at the bottom. */
class TradeLines {
  constructor(owner) { this.owner = owner; }

  attached({ chart, series }) { Object.assign(this, { chart, series }); }

  paneViews() {
    const draw = (target) => target.useMediaCoordinateSpace(({ context }) => this.#paint(context));
    return [{ zOrder: () => "normal", renderer: () => ({ draw }) }];
  }

  #paint(context) {
    const scale = this.chart.timeScale(), range = scale.getVisibleLogicalRange();
    if (!range) return;
    const visible = this.owner.segments.filter((one) => one.to >= range.from && one.from <= range.to);
    for (const one of visible.length > DRAWN_LINES ? [] : visible) {
      const [x1, x2] = [scale.logicalToCoordinate(one.from), scale.logicalToCoordinate(one.to)];
      const [y1, y2] = [this.series.priceToCoordinate(one.first), this.series.priceToCoordinate(one.last)];
      if (y1 === null || y2 === null) continue;
      context.beginPath();
      context.setLineDash(one.dash);
      context.strokeStyle = one.colour;
      context.lineWidth = 1.2;
      context.moveTo(x1, y1);
      context.lineTo(Math.max(x2, x1 + (one.dash[0] > 2 ? 3 : 0)), y2);
      context.stroke();
    }
    context.setLineDash([]);
    const bottom = context.canvas.clientHeight;
    for (const { index, colour: ink } of this.owner.ticks) {
      if (index < range.from || index > range.to) continue;
      context.fillStyle = ink;
      context.fillRect(scale.logicalToCoordinate(index) - 0.75, bottom - 9, 1.5, 9);
    }
  }
}

class PriceChart extends TimeChart {
  build() {
    this.trades ??= roundTrips.filter((trade) => trade.symbol === this.figure.symbol);
    this.levels ??= levelsOf(unpackCandles(this.figure.candles), this.figure.candles.interval / 1000);
    this.level ??= this.levels.length - 1;
    this.details ??= this.canvas.parentElement.insertBefore(element("div", "", "details"), this.canvas);
    const [up, down] = [colour("--gain"), colour("--loss")];
    const { step } = this.figure.candles;
    this.digits = Math.min(Math.max(0, -Math.round(Math.log10(step))), digitsOf(this.levels[0].bars.at(-1).close));
    this.series = this.chart.addSeries(LightweightCharts.CandlestickSeries, {
      upColor: colour("--paper"), borderUpColor: up, wickUpColor: up,
      downColor: down, borderDownColor: down, wickDownColor: down,
      lastValueVisible: false, priceLineVisible: false,
      priceFormat: { type: "custom", formatter: (value) => fixed(value, this.digits), minMove: 10 ** -this.digits },
    });
    this.volume = this.chart.addSeries(LightweightCharts.HistogramSeries, {
      priceScaleId: "volume", lastValueVisible: false, priceLineVisible: false,
      priceFormat: { type: "volume" }, color: colour("--muted-soft"),
    });
    this.volume.priceScale().applyOptions({ scaleMargins: { top: 0.84, bottom: 0 } });
    this.series.priceScale().applyOptions({ scaleMargins: { top: 0.1, bottom: 0.18 } });
    this.plots = this.figure.panes.flatMap((pane, number) => pane.lines.map((line) => (
      { line, series: this.addLine(line, number, pane.format ?? (number ? "number" : "amount")), pane }
    )));
    this.figure.panes.forEach((pane, number) => (
      this.chart.panes()[number]?.setStretchFactor(pane.share ?? 1)
    ));
    this.markers = LightweightCharts.createSeriesMarkers(this.series, []);
    this.series.attachPrimitive(new TradeLines(this));
    this.#show(this.level);
    this.chart.subscribeCrosshairMove((at) => this.#describe(at.logical));
    this.chart.timeScale().subscribeVisibleLogicalRangeChange((range) => this.#choose(range));
  }

  get bars() { return this.levels[this.level].bars; }

  count() { return this.bars.length; }

  fit() { this.#jump(this.levels.length - 1, () => super.fit()); }

  /** Shows candles of a level, and then a range of them, without choosing others meanwhile. */
  #jump(level, showRange) {
    this.switching = true;
    this.#show(level);
    showRange();
    requestAnimationFrame(() => requestAnimationFrame(() => { this.switching = false; }));
  }

  /** Shows a round trip, with as much time before and after it. */
  focus(trade) {
    const span = Math.max((trade.exit ?? trade.entry) - trade.entry, 20 * this.levels[0].length);
    let level = this.levels.length - 1;
    while (level && (3 * span) / this.levels[level - 1].length < this.canvas.clientWidth / SPARSEST) level -= 1;
    const [from, to] = [trade.entry - span, (trade.exit ?? trade.entry) + span];
    this.#jump(level, () => this.chart.timeScale().setVisibleLogicalRange({
      from: indexAt(this.bars, from), to: indexAt(this.bars, to) + 1,
    }));
    this.host.scrollIntoView({ block: "center" });
    this.host.focus({ preventScroll: true });
    this.#describe(this.#index(trade.entry));
  }

  #index(time) { return Math.max(indexAt(this.bars, time), 0); }

  /** Shows candles of another length if those shown are too dense, or shorter ones would have room. */
  #choose(range) {
    if (!range || this.switching) return;
    const width = this.canvas.clientWidth, count = range.to - range.from;
    const shorter = this.level ? this.levels[this.level].length / this.levels[this.level - 1].length : 0;
    let next = this.level;
    if (count > width / DENSEST && this.level + 1 < this.levels.length) next += 1;
    else if (shorter && count * shorter < width / SPARSEST) next -= 1;
    if (next === this.level) return;
    const [from, to] = [range.from, range.to].map((at) => this.#timeAt(at));
    this.#jump(next, () => this.chart.timeScale().setVisibleLogicalRange({
      from: this.#logicalAt(from), to: this.#logicalAt(to),
    }));
  }

  /** Returns the time at a position between candles, also before the first and after the last one. */
  #timeAt(logical) {
    const { bars, length } = this.levels[this.level], last = bars.length - 1;
    const at = Math.min(Math.max(Math.floor(logical), 0), last);
    return bars[at].time + (logical - at) * length;
  }

  #logicalAt(time) {
    const { bars, length } = this.levels[this.level];
    const at = this.#index(time), inside = (time - bars[at].time) / length;
    return at === bars.length - 1 || inside < 0 ? at + inside : at + Math.min(inside, 1);
  }

  #show(level) {
    this.level = level;
    const bars = this.bars;
    this.series.setData(bars);
    this.volume.setData(bars.map(({ time, volume }) => ({ time, value: volume })));
    for (const { line, series } of this.plots) {
      const values = new Map(); // a value belongs to the candle that it was computed at the end of
      for (const { time, value } of line.data) values.set(bars[this.#index(time - 1)].time, value);
      series.setData(Array.from(values, ([time, value]) => ({ time, value })));
    }
    this.#place();
    this.#describe();
  }

  /** Places round trips, stops and headlines on the candles that are shown. */
  #place() {
    const markers = new Map();
    this.texts = new Map();
    this.segments = [];
    this.ticks = []; // of headlines
    const note = (index, text) => this.texts.set(index, [...(this.texts.get(index) ?? []), text]);
    const results = new Map(); // of the exits of a candle, which share a marker
    const add = (at, kind, text, marker) => {
      const index = this.#index(at);
      note(index, text);
      markers.set(`${index} ${kind}`, { time: this.bars[index].time, ...marker });
      return index;
    };
    const [own, up, down] = [colour("--accent"), colour("--gain"), colour("--loss")];
    for (const trade of this.trades) {
      const result = trade.pnl > 0 ? up : down;
      const from = add(trade.entry, trade.long ? "long" : "short", entryText(trade), {
        position: trade.long ? "belowBar" : "aboveBar", shape: trade.long ? "arrowUp" : "arrowDown", color: own,
      });
      if (trade.exit === null) continue;
      const key = `${this.#index(trade.exit)} ${trade.long}`, sum = (results.get(key) ?? 0) + trade.pnl;
      results.set(key, sum);
      const to = add(trade.exit, `exit ${trade.long}`, exitText(trade), {
        position: trade.long ? "aboveBar" : "belowBar", shape: "circle", color: sum > 0 ? up : down, size: 0.7,
      });
      this.segments.push({
        from, to, first: trade.entry_price, last: trade.exit_price, colour: result, dash: [2, 2],
      });
    }
    for (const [start, end, price, isStop] of this.figure.levels ?? []) {
      const [from, to] = [this.#index(start), this.#index(end)];
      this.segments.push({ from, to, first: price, last: price, colour: isStop ? down : up, dash: [6, 3] });
    }
    for (const [at, predicted, confidence, kind, title, publisher] of this.figure.headlines ?? []) {
      const bullish = predicted === "bullish";
      const head = `${predicted}, confidence ${showPercent(confidence, 0)}${kind ? `, ${kind} news` : ""}`;
      const index = this.#index(at);
      note(index, `${showMinute(at)} ${head}: “${title}”${publisher ? ` ${publisher}` : ""}`);
      this.ticks.push({ index, colour: bullish ? up : down });
    }
    const scale = markers.size > MANY ? 0.55 : 1;
    this.markers.setMarkers([...markers.values()].sort((a, b) => a.time - b.time).map((marker) => (
      { ...marker, size: (marker.size ?? 1) * scale }
    )));
  }

  #describe(logical) {
    const index = Math.min(Math.max(Math.round(logical ?? this.bars.length - 1), 0), this.bars.length - 1);
    const bar = this.bars[index];
    if (!bar) return;
    const change = bar.close / bar.open - 1;
    const price = (value) => fixed(value, this.digits);
    const figures = element("span", `O ${price(bar.open)}  H ${price(bar.high)}  L ${price(bar.low)}  ` +
      `C ${price(bar.close)}  ${showSigned(change, showPercent)}`);
    const length = element("span", `candles of ${showLength(this.levels[this.level].length)}`, "length");
    this.legend.replaceChildren(length, element("time", showMinute(bar.time)), figures,
      ...this.plots.map(({ line, pane, series }) => (
        this.entry(line, series.dataByIndex(index, -1)?.value, pane.format)
      )));
    const texts = logical === undefined ? [] : this.texts.get(index) ?? [];
    const more = texts.length > TEXTS ? [element("p", `and ${texts.length - TEXTS} more: zoom in`)] : [];
    this.details.replaceChildren(...texts.slice(0, TEXTS).map((text) => element("p", text)), ...more);
  }
}

function entryText(trade) {
  const source = trade.headline ? ` “${trade.headline}” ${trade.publisher}` : "";
  return `${showMinute(trade.entry)} ${trade.long ? "Bought" : "Sold short"} ${trade.qty} at ` +
    `${showPrice(trade.entry_price)}${trade.reason ? `: ${trade.reason}` : ""}${source}`;
}

function exitText(trade) {
  return `${showMinute(trade.exit)} Closed at ${showPrice(trade.exit_price)}, ` +
    `${showSigned(trade.pnl, showMoney)} (${showSigned(trade.return, showPercent)})` +
    `${trade.exit_reason ? `: ${trade.exit_reason}` : ""}`;
}

/** Returns the page's round trips as objects, with entry and exit in seconds; an open one has no exit. */
function readTrades({ columns, texts, rows } = { columns: [], texts: [], rows: [] }) {
  const isText = new Set(["symbol", "reason", "exit_reason", "headline", "publisher"]);
  return (rows ?? []).map((row) => {
    const trade = Object.fromEntries(columns.map((name, at) => [name, isText.has(name) ? texts[row[at]] : row[at]]));
    trade.entry /= 1000;
    trade.exit = trade.duration === null ? null : trade.entry + trade.duration / 1000;
    return trade;
  });
}

const roundTrips = readTrades(island("trades"));
const timeCharts = new Map();
{
  const candles = island("candles");
  for (const [id, figure] of Object.entries(island("figures"))) {
    const host = document.getElementById(id);
    if (figure.type === "prices") {
      figure.candles = candles[figure.symbol];
      if (!figure.candles?.count) host.replaceChildren(element("p", "No bars of this symbol.", "note"));
      else timeCharts.set(id, new PriceChart(host, figure));
    } else timeCharts.set(id, new LineChart(host, figure));
  }
  timeCharts.forEach((chart) => chart.draw());
}
const redraw = () => timeCharts.forEach((chart) => chart.draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
matchMedia("print").addEventListener("change", ({ matches }) => (
  matches ? timeCharts.forEach((chart) => chart.print()) : redraw()
));
