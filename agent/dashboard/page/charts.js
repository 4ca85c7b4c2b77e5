// The two charts: candles with fills and headlines marked, and equity over its drawdown.
import { arrow, digitsOf, duration, number, percent, price, quantity, second } from "./format.js";

const SHOWN = 110; // candles in sight at first
const TEXTS = 3; // of one candle, in the legend

const style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(`--${name}`).trim();

function themed() {
  return {
    autoSize: true,
    layout: {
      attributionLogo: false, // the link stands in the footer
      background: { type: "solid", color: "transparent" },
      textColor: colour("soft"),
      fontFamily: colour("font"),
      fontSize: 11,
      panes: { separatorColor: colour("rule"), enableResize: false },
    },
    grid: { vertLines: { color: colour("grid") }, horzLines: { color: colour("grid") } },
    rightPriceScale: { borderColor: colour("rule") },
    timeScale: { borderColor: colour("rule"), timeVisible: true, secondsVisible: false, rightOffset: 4, minBarSpacing: 0.2 },
    crosshair: { mode: 0 },
    localization: { locale: "en-US" },
    handleScroll: { vertTouchDrag: false },
  };
}

const seconds = (ms) => Math.floor(ms / 1000);

function whenColoursChange(redraw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

export class Candles {
  #bars = new Map();
  #marks = new Map(); // start of a bar -> texts
  #last = -1;

  constructor(element, legend, interval) {
    this.interval = interval;
    this.legend = legend;
    this.chart = LightweightCharts.createChart(element, themed());
    this.series = this.chart.addSeries(LightweightCharts.CandlestickSeries, { borderVisible: true, lastValueVisible: false, priceLineVisible: false });
    this.line = null; // the last price, in a colour that is read on any ground
    this.markers = LightweightCharts.createSeriesMarkers(this.series, []);
    this.chart.subscribeCrosshairMove((at) => this.#tell(at.time));
    whenColoursChange(() => this.#paint());
    this.#paint();
  }

  #paint() {
    this.chart.applyOptions(themed());
    const [up, down] = [colour("up"), colour("down")];
    this.series.applyOptions({
      upColor: colour("paper"), borderUpColor: up, wickUpColor: up, downColor: down, borderDownColor: down, wickDownColor: down,
    });
    this.#price();
    if (this.marked) this.mark(...this.marked);
  }

  take({ all, rows }, kept) {
    const first = all || !this.#bars.size;
    if (all) this.#bars.clear();
    let ordered = !all;
    for (const [start, open, high, low, close] of rows) {
      const bar = { time: seconds(start), open, high, low, close };
      this.#bars.set(start, bar);
      if (start < this.#last) ordered = false;
      this.#last = all ? start : Math.max(this.#last, start);
      if (ordered) this.series.update(bar);
    }
    if (this.#bars.size > kept) {
      const oldest = [...this.#bars.keys()].sort((a, b) => a - b).slice(0, this.#bars.size - kept);
      for (const start of oldest) this.#bars.delete(start);
      if (oldest.length > kept / 4) ordered = false;
    }
    if (!ordered) this.series.setData([...this.#bars.keys()].sort((a, b) => a - b).map((start) => this.#bars.get(start)));
    if (first && this.#bars.size) {
      const digits = digitsOf([...this.#bars.values()].at(-1).close);
      this.series.applyOptions({ priceFormat: { type: "price", precision: digits, minMove: 10 ** -digits } });
      this.chart.timeScale().setVisibleLogicalRange({ from: this.#bars.size - SHOWN, to: this.#bars.size + 4 });
    }
    this.#price();
    this.#tell();
  }

  #price() {
    const last = this.#bars.get(this.#last);
    if (!last) return;
    const line = { price: last.close, color: colour("accent"), lineWidth: 1, lineStyle: 1, axisLabelVisible: true };
    if (this.line) this.line.applyOptions(line);
    else this.line = this.series.createPriceLine(line);
  }

  /** Fills by side, and how many headlines came in a bar. */
  mark(trades, headlines) {
    this.marked = [trades, headlines];
    this.#marks.clear();
    const drawn = new Map();
    const put = (at, kind, text, make) => {
      const start = at - (at % this.interval);
      if (!this.#bars.has(start)) return;
      this.#marks.set(start, [...(this.#marks.get(start) ?? []), text]);
      const key = `${start} ${kind}`;
      if (!drawn.has(key)) drawn.set(key, { time: seconds(start), ...make, count: 0 });
      drawn.get(key).count += 1;
    };
    for (const trade of trades) {
      const buy = trade.side === "BUY";
      put(trade.at, trade.side, `${buy ? "bought" : "sold"} ${quantity(trade.qty)} at ${price(trade.price)}`, {
        position: buy ? "belowBar" : "aboveBar", shape: buy ? "arrowUp" : "arrowDown", color: colour(buy ? "up" : "down"), size: 1.6,
      });
    }
    for (const headline of headlines) {
      put(headline.at, "headline", `“${headline.title}”`, { position: "aboveBar", shape: "circle", color: colour("wire"), size: 0.7 });
    }
    const markers = [...drawn.values()].sort((a, b) => a.time - b.time);
    this.markers.setMarkers(markers.map(({ count, ...marker }) => (count > 1 ? { ...marker, text: String(count) } : marker)));
  }

  #tell(time) {
    const start = time === undefined ? this.#last : time * 1000;
    const bar = this.#bars.get(start);
    if (!bar) {
      this.legend.replaceChildren();
      return;
    }
    const change = bar.close / bar.open - 1;
    const figures = document.createElement("span");
    figures.textContent = `${second(start)}  O ${price(bar.open)}  H ${price(bar.high)}  L ${price(bar.low)}  C ${price(bar.close)}  ` +
      `${arrow(change)} ${percent(change, 2, { signed: true })}`;
    const texts = (this.#marks.get(start) ?? []).slice(0, TEXTS).map((text) => {
      const line = document.createElement("bdi");
      line.textContent = text;
      return line;
    });
    this.legend.replaceChildren(figures, ...texts);
  }

  clear() {
    this.#bars.clear();
    this.#last = -1;
    this.series.setData([]);
    this.mark([], []);
  }
}

export class Equity {
  constructor(element) {
    this.digits = 0;
    this.chart = LightweightCharts.createChart(element, themed());
    this.equity = this.chart.addSeries(LightweightCharts.AreaSeries, { lineWidth: 2, priceLineVisible: false }, 0);
    this.drawdown = this.chart.addSeries(LightweightCharts.AreaSeries, {
      lineWidth: 1, priceLineVisible: false, invertFilledArea: true,
      priceFormat: { type: "custom", formatter: (value) => percent(value, 1), minMove: 0.0001 },
      autoscaleInfoProvider: (original) => {  // 0 is the top, also while nothing was lost
        const info = original();
        if (info?.priceRange) info.priceRange = { minValue: Math.min(info.priceRange.minValue, -0.001), maxValue: 0 };
        return info;
      },
    }, 1);
    this.chart.panes()[0].setStretchFactor(3);
    this.chart.panes()[1].setStretchFactor(1.2);
    this.equity.applyOptions({ priceFormat: { type: "custom", formatter: (value) => number(value, this.digits), minMove: 0.01 } });
    whenColoursChange(() => this.#paint());
    this.#paint();
  }

  #paint() {
    this.chart.applyOptions(themed());
    this.equity.applyOptions({ lineColor: colour("accent"), topColor: colour("accent-wash"), bottomColor: "transparent" });
    this.drawdown.applyOptions({ lineColor: colour("down"), topColor: colour("down-wash"), bottomColor: colour("down-wash") });
  }

  take([times, values]) {
    const points = new Map();
    times.forEach((ts, index) => points.set(seconds(ts), values[index]));
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

export const keyText = (interval) =>
  `${duration(interval)} bars. Hollow: up, filled: down. Arrows are fills, dots headlines; point at a candle to read them.`;
