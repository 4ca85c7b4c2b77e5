// Formatting of numbers and times, and construction of elements. Text is never parsed as markup.

/** The page's root URL, which may be below a path of a reverse proxy. */
const ROOT = new URL("../", import.meta.url);
export const address = (path) => new URL(path, ROOT).href;
/** The parts of the current path below the root URL. */
export const pathParts = () => location.pathname.slice(ROOT.pathname.length).split("/");

export const MISSING = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const formatters = new Map();

function format(value, digits) {
  if (!formatters.has(digits)) {
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    formatters.set(digits, new Intl.NumberFormat("en-US", options));
  }
  const text = formatters.get(digits).format(value);
  return (/^-[0.,]+$/.test(text) ? text.slice(1) : text).replace("-", "−");
}

export function number(value, digits = 2, { signed = false } = {}) {
  if (!isNumber(value)) return MISSING;
  const text = format(value, digits);
  return signed && value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

export const percent = (value, digits = 2, options = {}) =>
  isNumber(value) ? `${number(value * 100, digits, options)}\u00a0%` : MISSING;

export const digitsOf = (price) => (Math.abs(price) >= 100 ? 2 : Math.abs(price) >= 1 ? 4 : 8);
export const price = (value) => (isNumber(value) && value !== 0 ? number(value, digitsOf(value)) : MISSING);
/** Decimal places of a number; of one that is written with an exponent, 8. */
const decimals = (value) => (String(value).includes("e-") ? 8 : Math.min(8, (String(value).split(".")[1] ?? "").length));
export const quantity = (value, options = {}) => number(value, decimals(value), options);

export const clock = (ms) => new Date(ms).toISOString().slice(11, 19);
const day = (ms) => new Date(ms).toISOString().slice(0, 10);
export const minute = (ms) => (ms ? new Date(ms).toISOString().slice(0, 16).replace("T", " ") : MISSING);
export const second = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ");

/** Returns a function that renders the times of `rows`, with the date if they span more than one day. */
export function timeRenderer(rows) {
  const dated = new Set(rows.map((row) => day(row.at))).size > 1;
  const render = (ms) => element("time", {
    datetime: new Date(ms).toISOString(), title: second(ms), text: dated ? second(ms) : clock(ms),
  });
  return Object.assign(render, { dated });
}

export function duration(ms) {
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000]];
  const parts = [];
  for (const [unit, size] of units) {
    const count = Math.floor(ms / size);
    ms -= count * size;
    if (count || parts.length) parts.push(count ? `${count} ${unit}` : "");
    if (parts.length === 2) break;
  }
  return parts.filter(Boolean).join(" ") || "0 s";
}

/** An arrow beside the sign, so that colour isn't the only distinction. */
export const arrow = (value) => (value > 0 ? "▲" : value < 0 ? "▼" : "");
export const tone = (value) => (value > 0 ? "up" : value < 0 ? "down" : "");

export function element(tag, { text, ...attributes } = {}, ...children) {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== "") created.setAttribute(name, value);
  }
  if (text !== undefined) created.textContent = text;
  created.append(...children.filter((child) => child !== null && child !== undefined));
  return created;
}

/** A text from outside, isolated so that its writing direction can't affect the text around it. */
export const untrusted = (text) => element("bdi", { text });

export function fillTable(target, columns, rows, empty) {
  if (!rows.length) {
    const cell = element("td", { class: "empty", text: empty });
    target.replaceChildren(element("tbody", {}, element("tr", {}, cell)));
    return;
  }
  const head = columns.map(([title, kind]) => element("th", { text: title, class: kind, scope: "col" }));
  const body = rows.map(({ cells, ...attributes }) =>
    element("tr", attributes, ...cells.map((cell, number) => {
      const [title, kind] = columns[number];
      const attributes = { class: kind, "data-title": title };
      const isNode = cell instanceof Node;
      return isNode ? element("td", attributes, cell) : element("td", { ...attributes, text: cell });
    })));
  target.replaceChildren(element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}
