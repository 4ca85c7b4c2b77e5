"use strict";
// What the charts over time share: colours, texts, the frame with its legend, keys and wheel; and line charts.
const pageStyle = getComputedStyle(document.documentElement);
const colour = (name) => pageStyle.getPropertyValue(name).trim();
const island = (name) => JSON.parse(document.getElementById(`${name}-data`)?.textContent ?? "{}");

/** Formats a number; one that rounds to zero gets no sign. */
const fixed = (value, digits) => {
  const text = value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  return /[1-9]/.test(text) ? text.replace("-", "−") : text.replace("-", "");
};
const digitsOf = (value) => (Math.abs(value) >= 100 ? 2 : Math.abs(value) >= 1 ? 4 : 8);
const showPrice = (value) => fixed(value, digitsOf(value));
const showMoney = (value) => fixed(value, Math.abs(value) >= 100_000 ? 0 : 2);
const showSigned = (value, show) => (value > 0 && /[1-9]/.test(show(value)) ? `+${show(value)}` : show(value));
const showPercent = (value, digits = 2) => `${fixed(value * 100, digits)} %`;
const showMinute = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");
const FORMATS = {
  amount: (value) => (Math.abs(value) >= 1000 ? fixed(value, 0) : showPrice(value)),
  percent: (value) => showPercent(value, Math.abs(value) < 0.1 ? 2 : 1),
  number: (value) => (Math.abs(value) >= 100 ? fixed(value, 0) : fixed(value, 2)),
};

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (name) made.className = name;
  return made;
}

/** Returns the last index whose time is at most `time`, or -1. */
function indexAt(points, time) {
  let low = 0, high = points.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].time <= time) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

function chartOptions() {
  return {
    layout: {
      attributionLogo: false, // the page's footer has the link
      background: { type: "solid", color: "transparent" },
      textColor: colour("--ink-soft"),
      fontFamily: colour("--font"),
      fontSize: 11,
      panes: { separatorColor: colour("--rule"), enableResize: false },
    },
    grid: { vertLines: { color: colour("--grid") }, horzLines: { color: colour("--grid") } },
    rightPriceScale: { borderColor: colour("--rule"), minimumWidth: 62 },
    timeScale: {
      borderColor: colour("--rule"), timeVisible: true, secondsVisible: false, minBarSpacing: 0.02,
    },
    crosshair: { mode: 0 },
    localization: { locale: "en-US" },
    handleScroll: { mouseWheel: false, vertTouchDrag: false },
    handleScale: { mouseWheel: false },
  };
}

class TimeChart {
  constructor(host, figure) {
    this.host = host;
    this.figure = figure;
    this.legend = element("div", "", "legend");
    this.canvas = element("div", "", "canvas");
    this.buttons = element("div", "", "buttons");
    for (const [label, name, act] of [
      ["−", "Zoom out", () => this.zoom(1.5)], ["+", "Zoom in", () => this.zoom(1 / 1.5)],
      ["All", "Show the whole time", () => this.fit()],
    ]) {
      const button = element("button", label);
      button.type = "button";
      button.setAttribute("aria-label", name);
      button.addEventListener("click", act);
      this.buttons.append(button);
    }
    host.replaceChildren(this.legend, this.buttons, this.canvas);
    host.tabIndex = 0;
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", figure.label);
    host.addEventListener("keydown", (event) => this.#press(event));
    host.addEventListener("pointerdown", () => this.#wheel(true));
    host.addEventListener("pointerleave", () => this.#wheel(false));
  }

  /** Draws, or draws again in other colours, and keeps what is visible. */
  draw() {
    const shown = this.chart?.timeScale().getVisibleLogicalRange();
    this.chart?.remove();
    this.chart = LightweightCharts.createChart(this.canvas, { autoSize: true, ...chartOptions() });
    this.build();
    if (shown) this.chart.timeScale().setVisibleLogicalRange(shown);
    else this.fit();
  }

  /** Paints at once in the size and colours of the printed page. */
  print() {
    this.draw();
    this.chart.applyOptions({ autoSize: false });
    this.chart.resize(this.canvas.clientWidth, this.canvas.clientHeight, true);
  }

  /** Shows all points, with a little room for the labels at both ends. */
  fit() {
    const last = this.count() - 1, room = last * 0.015;
    this.chart.timeScale().setVisibleLogicalRange({ from: -room, to: last + room });
  }

  zoom(factor) {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (!range) return;
    const middle = (range.from + range.to) / 2, half = ((range.to - range.from) / 2) * factor;
    this.chart.timeScale().setVisibleLogicalRange({ from: middle - half, to: middle + half });
  }

  #move(share) {
    const range = this.chart.timeScale().getVisibleLogicalRange();
    if (!range) return;
    const by = (range.to - range.from) * share;
    this.chart.timeScale().setVisibleLogicalRange({ from: range.from + by, to: range.to + by });
  }

  #press(event) {
    const act = {
      ArrowLeft: () => this.#move(-0.1), ArrowRight: () => this.#move(0.1),
      "+": () => this.zoom(1 / 1.5), "-": () => this.zoom(1.5), 0: () => this.fit(),
    }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }

  #wheel(on) {
    this.chart.applyOptions({ handleScroll: { mouseWheel: on }, handleScale: { mouseWheel: on } });
  }

  /** Adds a line to a pane, with its points. */
  addLine(line, pane, format) {
    const main = colour(line.colour), soft = colour(`${line.colour}-soft`) || "transparent";
    const show = FORMATS[format ?? "number"];
    const shared = {
      lineWidth: line.width ?? 1, priceLineVisible: false, lastValueVisible: false,
      crosshairMarkerRadius: 3,
      priceFormat: { type: "custom", formatter: show, minMove: format === "amount" ? 1e-8 : 1e-6 },
    };
    const series = line.fill
      ? this.chart.addSeries(LightweightCharts.BaselineSeries, {
        ...shared, baseValue: { type: "price", price: 0 }, topLineColor: main, bottomLineColor: main,
        topFillColor1: soft, topFillColor2: soft, bottomFillColor1: soft, bottomFillColor2: soft,
      }, pane)
      : this.chart.addSeries(LightweightCharts.LineSeries, { ...shared, color: main }, pane);
    line.data ??= unpackPoints(line.points);
    return series;
  }

  /** Returns a coloured name and value for the legend. */
  entry(line, value, format) {
    const item = element("span", "", "entry");
    const swatch = element("i");
    swatch.style.background = colour(line.colour);
    item.append(swatch, element("bdi", line.name), " ", element("b", value === undefined
      ? "–" : FORMATS[format ?? "number"](value)));
    return item;
  }
}

class LineChart extends TimeChart {
  build() {
    this.figure.panes.forEach((pane, number) => {
      for (const line of pane.lines) {
        const series = this.addLine(line, number, pane.format);
        series.setData(line.data);
        if (number === 0 && line === pane.lines.at(-1)) this.#mark(series, line.data);
      }
      this.chart.panes()[number]?.setStretchFactor(pane.share ?? 1);
    });
    this.chart.subscribeCrosshairMove((at) => this.#describe(at.time));
    this.#describe();
  }

  /** Returns how many times the lines have. */
  count() {
    const times = this.figure.panes.flatMap((pane) => pane.lines.flatMap((line) => line.data.map(({ time }) => time)));
    return new Set(times).size;
  }

  #mark(series, points) {
    const marks = (this.figure.marks ?? []).map(({ ts, text }) => ({
      time: points[Math.max(indexAt(points, ts / 1000), 0)]?.time, position: "aboveBar", shape: "square",
      color: colour("--loss"), size: 0.6, text,
    }));
    if (marks.length && points.length) LightweightCharts.createSeriesMarkers(series, marks);
  }

  #describe(time) {
    const last = Math.max(...this.figure.panes[0].lines.map((line) => line.data.at(-1)?.time ?? 0));
    const at = time ?? last;
    const entries = this.figure.panes.flatMap((pane) => pane.lines.map((line) => {
      const row = indexAt(line.data, at);
      return this.entry(line, line.data[row]?.value, pane.format);
    }));
    this.legend.replaceChildren(element("time", at ? showMinute(at) : ""), ...entries);
  }
}
