// The two charts: candles with markers for fills and headlines, and equity above its drawdown.
import { arrow, digitsOf, duration, number, percent, price, quantity, second } from "./format.js";

const VISIBLE_CANDLES = 110; // at first
const LEGEND_LINES = 3; // for the fills and headlines of a candle
const PLOT_COLOURS = ["headline", "accent", "up", "down", "muted"];

const style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(`--${name}`).trim();

function themeOptions() {
  return {
    autoSize: true,
    layout: {
      attributionLogo: false, // the footer has the link
      background: { type: "solid", color: "transparent" },
      textColor: colour("soft"),
      fontFamily: colour("font"),
      fontSize: 11,
      panes: { separatorColor: colour("rule"), enableResize: false },
    },
    grid: { vertLines: { color: colour("grid") }, horzLines: { color: colour("grid") } },
    rightPriceScale: { borderColor: colour("rule") },
    timeScale: {
      borderColor: colour("rule"), timeVisible: true, secondsVisible: false,
      rightOffset: 4, minBarSpacing: 0.2,
    },
    crosshair: { mode: 0 },
    localization: { locale: "en-US" },
    handleScroll: { vertTouchDrag: false },
  };
}

const toSeconds = (ms) => Math.floor(ms / 1000);

/** `signal` ends the calls of `redraw`. */
function onThemeChange(redraw, signal) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw, { signal });
}

export class CandleChart {
  #bars = new Map();
  #legendTexts = new Map(); // by start of the bar
  #plots = new Map(); // by name of the line
  #last = -1;
  #isFramed = false;
  #lines = []; // of the position and its working orders
  #hidden = new Set(); // names of plots that aren't drawn
  #removed = new AbortController();

  constructor(element, legend, interval) {
    this.element = element;
    this.interval = interval;
    this.legend = legend;
    this.chart = LightweightCharts.createChart(element, themeOptions());
    this.series = this.chart.addSeries(LightweightCharts.CandlestickSeries, {
      borderVisible: true, lastValueVisible: false, priceLineVisible: false,
    });
    this.volume = this.chart.addSeries(LightweightCharts.HistogramSeries, {
      priceScaleId: "volume", priceFormat: { type: "volume" }, lastValueVisible: false, priceLineVisible: false,
    });
    this.chart.priceScale("volume").applyOptions({ scaleMargins: { top: 0.84, bottom: 0 } });
    this.priceLine = null; // of the last price, in a colour that is readable in both themes
    this.markers = LightweightCharts.createSeriesMarkers(this.series, []);
    this.chart.subscribeCrosshairMove((at) => this.#updateLegend(at.time));
    onThemeChange(() => this.#applyColours(), this.#removed.signal);
    this.#applyColours();
  }

  #applyColours() {
    this.chart.applyOptions(themeOptions());
    const [up, down] = [colour("up"), colour("down")];
    this.series.applyOptions({
      upColor: colour("paper"), borderUpColor: up, wickUpColor: up,
      downColor: down, borderDownColor: down, wickDownColor: down,
    });
    this.#updatePriceLine();
    if (this.marked) this.setMarkers(...this.marked);
    for (const plot of this.#plots.values()) plot.series?.applyOptions({ color: colour(plot.colour) });
    this.#drawVolume();
    if (this.lined) this.setLines(this.lined);
  }

  #volumeOf(start) {
    const { time, open, close, volume } = this.#bars.get(start);
    return { time, value: volume, color: colour(close >= open ? "up-wash" : "down-wash") };
  }

  #drawVolume() {
    this.volume.setData([...this.#bars.keys()].sort((a, b) => a - b).map((start) => this.#volumeOf(start)));
  }

  /** Draws horizontal lines: each has a price, a title, and a kind that gives its colour. */
  setLines(lines) {
    this.lined = lines;
    for (const line of this.#lines) this.series.removePriceLine(line);
    this.#lines = lines.map(({ price: at, title, kind }) => this.series.createPriceLine({
      price: at, title, color: colour(kind), lineWidth: 1, lineStyle: kind === "accent" ? 0 : 2, axisLabelVisible: true,
    }));
  }

  /** The best price of the bars since a time, for the one side or the other; null without such bars. */
  bestSince(at, isHighest) {
    const since = [...this.#bars].filter(([start]) => start >= at).map(([, bar]) => (isHighest ? bar.high : bar.low));
    return since.length ? (isHighest ? Math.max(...since) : Math.min(...since)) : null;
  }

  get plotNames() {
    return [...this.#plots.keys()];
  }

  /** Shows or hides the volume, or a plotted line. */
  showVolume(visible) {
    this.volume.applyOptions({ visible });
  }

  showPlot(name, visible) {
    if (visible) this.#hidden.delete(name);
    else this.#hidden.add(name);
    this.#plots.get(name)?.series?.applyOptions({ visible });
  }

  /** Applies changed bars, or replaces all of them, and keeps the latest `limit`. What is in view stays in view. */
  update({ all, rows }, limit) {
    const first = !this.#bars.size;
    if (all) {
      this.#bars.clear();
      this.#clearPlots(); // the lines of all bars follow
    }
    let ordered = !all;
    for (const [start, open, high, low, close, volume] of rows) {
      const bar = { time: toSeconds(start), open, high, low, close, volume };
      this.#bars.set(start, bar);
      if (start < this.#last) ordered = false;
      this.#last = all ? start : Math.max(this.#last, start);
      if (ordered) {
        this.series.update(bar);
        this.volume.update(this.#volumeOf(start));
      }
    }
    if (this.#bars.size > limit) {
      const oldest = [...this.#bars.keys()].sort((a, b) => a - b).slice(0, this.#bars.size - limit);
      for (const start of oldest) this.#bars.delete(start);
      if (oldest.length > limit / 4) ordered = false;
    }
    if (!ordered) {
      const starts = [...this.#bars.keys()].sort((a, b) => a - b);
      this.series.setData(starts.map((start) => this.#bars.get(start)));
      this.#drawVolume();
    }
    if (first && this.#bars.size) {
      const digits = digitsOf([...this.#bars.values()].at(-1).close);
      this.series.applyOptions({ priceFormat: { type: "price", precision: digits, minMove: 10 ** -digits } });
      this.#isFramed = false;
      this.frame();
    }
    this.#updatePriceLine();
    this.#updateLegend();
  }

  /** Shows the latest candles, once the chart has a width: it may be in a view that is not selected. */
  frame() {
    const count = this.#bars.size;
    if (this.#isFramed || !count || !this.element.clientWidth) return;
    this.#isFramed = true;
    this.chart.timeScale().setVisibleLogicalRange({ from: count - (this.visible ?? VISIBLE_CANDLES), to: count + 4 });
  }

  #updatePriceLine() {
    const last = this.#bars.get(this.#last);
    if (!last) return;
    const appearance = { color: colour("accent"), lineWidth: 1, lineStyle: 1 };
    const line = { price: last.close, axisLabelVisible: true, ...appearance };
    if (this.priceLine) this.priceLine.applyOptions(line);
    else this.priceLine = this.series.createPriceLine(line);
  }

  /** Marks fills and headlines. Several of one kind in a bar share a marker, which shows their number. */
  setMarkers(trades, headlines) {
    this.marked = [trades, headlines];
    this.#legendTexts.clear();
    const markers = new Map();
    const add = (at, kind, text, marker) => {
      const start = at - (at % this.interval);
      if (!this.#bars.has(start)) return;
      this.#legendTexts.set(start, [...(this.#legendTexts.get(start) ?? []), text]);
      const key = `${start} ${kind}`;
      if (!markers.has(key)) markers.set(key, { time: toSeconds(start), ...marker, count: 0 });
      markers.get(key).count += 1;
    };
    for (const trade of trades) {
      const buy = trade.side === "BUY";
      const text = `${buy ? "bought" : "sold"} ${quantity(trade.qty)} at ${price(trade.price)}`;
      add(trade.at, trade.side, text, {
        position: buy ? "belowBar" : "aboveBar", shape: buy ? "arrowUp" : "arrowDown",
        color: colour(buy ? "up" : "down"), size: 1.6,
      });
    }
    for (const headline of headlines) {
      add(headline.at, "headline", `“${headline.title}”`, {
        position: "aboveBar", shape: "circle", color: colour("headline"), size: 0.7,
      });
    }
    const ordered = [...markers.values()].sort((a, b) => a.time - b.time);
    this.markers.setMarkers(ordered.map(({ count, ...marker }) => (
      count > 1 ? { ...marker, text: String(count) } : marker
    )));
  }

  #updateLegend(time) {
    const start = time === undefined ? this.#last : time * 1000;
    const bar = this.#bars.get(start);
    if (!bar) {
      this.legend.replaceChildren();
      return;
    }
    const change = bar.close / bar.open - 1;
    const figures = document.createElement("span");
    figures.textContent = `${second(start)}  O ${price(bar.open)}  H ${price(bar.high)}  ` +
      `L ${price(bar.low)}  C ${price(bar.close)}  V ${number(bar.volume, bar.volume < 100 ? 2 : 0)}  ` +
      `${arrow(change)} ${percent(change, 2, { signed: true })}`;
    const texts = (this.#legendTexts.get(start) ?? []).slice(0, LEGEND_LINES).map((text) => {
      const line = document.createElement("bdi");
      line.textContent = text;
      return line;
    });
    this.legend.replaceChildren(figures, ...texts);
  }

  /** Draws what the strategy plots: over the candles if it is near them, else in a pane of its own. */
  updatePlots({ all, rows }) {
    if (all) this.#clearPlots();
    const changed = new Set();
    for (const [start, name, value] of rows) {
      if (!this.#plots.has(name)) this.#plots.set(name, { points: new Map() });
      this.#plots.get(name).points.set(start, value);
      changed.add(name);
    }
    const oldest = Math.min(...this.#bars.keys());
    for (const name of changed) this.#drawPlot(name, oldest);
  }

  #drawPlot(name, oldest) {
    const plot = this.#plots.get(name);
    for (const start of plot.points.keys()) if (start < oldest) plot.points.delete(start);
    const values = [...plot.points.values()];
    if (!plot.series) {
      const bars = [...this.#bars.values()];
      const [low, high] = [Math.min(...bars.map((bar) => bar.low)), Math.max(...bars.map((bar) => bar.high))];
      const slack = (high - low) / 2;
      const over = values.every((value) => value >= low - slack && value <= high + slack);
      plot.colour = PLOT_COLOURS[[...this.#plots.keys()].indexOf(name) % PLOT_COLOURS.length];
      plot.series = this.chart.addSeries(LightweightCharts.LineSeries, {
        title: name, lineWidth: 1, visible: !this.#hidden.has(name), color: colour(plot.colour), priceLineVisible: false,
      }, over ? 0 : this.chart.panes().length);
      this.chart.panes()[0].setStretchFactor(3);
    }
    const points = [...plot.points].sort((a, b) => a[0] - b[0]);
    plot.series.setData(points.map(([start, value]) => ({ time: toSeconds(start), value })));
  }

  #clearPlots() {
    for (const { series } of this.#plots.values()) if (series) this.chart.removeSeries(series);
    this.#plots.clear();
  }

  /** Removes the chart from the page; it can't be used any more. */
  remove() {
    this.#removed.abort();
    this.chart.remove();
  }

  clear() {
    this.#bars.clear();
    this.#clearPlots();
    this.#last = -1;
    this.series.setData([]);
    this.volume.setData([]);
    this.setLines([]);
    this.setMarkers([], []);
  }
}

export class EquityChart {
  constructor(element) {
    this.digits = 0;
    this.chart = LightweightCharts.createChart(element, themeOptions());
    const equityOptions = { lineWidth: 2, priceLineVisible: false };
    this.equity = this.chart.addSeries(LightweightCharts.AreaSeries, equityOptions, 0);
    this.drawdown = this.chart.addSeries(LightweightCharts.AreaSeries, {
      lineWidth: 1, priceLineVisible: false, invertFilledArea: true,
      priceFormat: { type: "custom", formatter: (value) => percent(value, 1), minMove: 0.0001 },
      autoscaleInfoProvider: (original) => {  // the top is 0, even without any drawdown
        const info = original();
        if (info?.priceRange) {
          info.priceRange = { minValue: Math.min(info.priceRange.minValue, -0.001), maxValue: 0 };
        }
        return info;
      },
    }, 1);
    this.chart.panes()[0].setStretchFactor(3);
    this.chart.panes()[1].setStretchFactor(1.2);
    this.equity.applyOptions({
      priceFormat: { type: "custom", formatter: (value) => number(value, this.digits), minMove: 0.01 },
    });
    onThemeChange(() => this.#applyColours());
    this.#applyColours();
  }

  #applyColours() {
    this.chart.applyOptions(themeOptions());
    this.equity.applyOptions({
      lineColor: colour("accent"), topColor: colour("accent-wash"), bottomColor: "transparent",
    });
    this.drawdown.applyOptions({
      lineColor: colour("down"), topColor: colour("down-wash"), bottomColor: colour("down-wash"),
    });
  }

  setCurve([times, values]) {
    const points = new Map();
    times.forEach((ts, index) => points.set(toSeconds(ts), values[index]));
    const ordered = [...points].sort((a, b) => a[0] - b[0]);
    let peak = -Infinity;
    const spread = Math.max(...values) - Math.min(...values);
    this.digits = spread < 10 ? 2 : 0;
    this.equity.setData(ordered.map(([time, value]) => ({ time, value })));
    this.drawdown.setData(ordered.map(([time, value]) => {
      peak = Math.max(peak, value);
      return { time, value: peak > 0 ? value / peak - 1 : 0 };
    }));
    if (!this.touched) this.chart.timeScale().fitContent();
  }
}

/** Two lives of a run over each other, and below them the difference of their equity. */
export class LivesChart {
  constructor(element) {
    this.chart = LightweightCharts.createChart(element, themeOptions());
    const digits = { type: "custom", formatter: (value) => number(value, 0), minMove: 0.01 };
    const line = { priceLineVisible: false, priceFormat: digits };
    this.was = this.chart.addSeries(LightweightCharts.LineSeries, { ...line, lineWidth: 3 }, 0);
    this.changed = this.chart.addSeries(LightweightCharts.LineSeries, { ...line, lineWidth: 2 }, 0);
    this.difference = this.chart.addSeries(LightweightCharts.BaselineSeries, {
      ...line, lineWidth: 1, baseValue: { type: "price", price: 0 },
      priceFormat: { ...digits, formatter: (value) => number(value, 2, { signed: true }) },
    }, 1);
    this.chart.panes()[0].setStretchFactor(3);
    this.chart.panes()[1].setStretchFactor(1.2);
    this.markers = LightweightCharts.createSeriesMarkers(this.was, []);
    onThemeChange(() => this.#applyColours());
    this.#applyColours();
  }

  #applyColours() {
    this.chart.applyOptions(themeOptions());
    this.was.applyOptions({ color: colour("muted") });
    this.changed.applyOptions({ color: colour("accent") });
    const [up, down] = [colour("up"), colour("down")];
    this.difference.applyOptions({
      topLineColor: up, topFillColor1: colour("up-wash"), topFillColor2: "transparent",
      bottomLineColor: down, bottomFillColor1: "transparent", bottomFillColor2: colour("down-wash"),
    });
    if (this.shown) this.show(...this.shown);
  }

  /** `begins` is the time (UTC ms) from which the change holds; null: the beginning. */
  show(lives, begins) {
    this.shown = [lives, begins];
    const [was, changed] = [lives.as_it_was, lives.changed].map(([times, values]) => (
      new Map(times.map((at, index) => [toSeconds(at), values[index]]))));
    const points = (life) => [...life].sort((a, b) => a[0] - b[0]).map(([time, value]) => ({ time, value }));
    this.was.setData(points(was));
    this.changed.setData(points(changed));
    this.difference.setData(difference(points(was), points(changed)));
    const first = begins === null ? null : points(was).findLast(({ time }) => time <= toSeconds(begins));
    this.markers.setMarkers(first ? [{
      time: first.time, position: "aboveBar", shape: "arrowDown", color: colour("headline"), text: "change",
    }] : []);
    this.chart.timeScale().fitContent();
  }
}

/** Changed minus as it was at all times of both; between its samples a life keeps its last value. */
function difference(was, changed) {
  const times = [...new Set([...was, ...changed].map(({ time }) => time))].sort((a, b) => a - b);
  const found = [];
  let [i, j] = [-1, -1];
  for (const time of times) {
    while (i + 1 < was.length && was[i + 1].time <= time) i += 1;
    while (j + 1 < changed.length && changed[j + 1].time <= time) j += 1;
    if (i >= 0 && j >= 0) found.push({ time, value: changed[j].value - was[i].value });
  }
  return found;
}

export const chartHelp = (interval) =>
  `${duration(interval)} candles: hollow is up, filled is down. ` +
  "Arrows are fills, dots are headlines; hover over a candle to read them.";
