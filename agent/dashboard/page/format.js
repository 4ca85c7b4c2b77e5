// Figures as people read them, and elements from text. Nothing here or elsewhere makes markup of a text.

/** Where the page is served: below a path, if a proxy serves it there. */
const ROOT = new URL("../", import.meta.url);
export const address = (path) => new URL(path, ROOT).href;
/** The parts of this page's path, below where the page is served. */
export const here = () => location.pathname.slice(ROOT.pathname.length).split("/");

export const MISSING = "–";
const known = (value) => typeof value === "number" && Number.isFinite(value);
const formatters = new Map();

function format(value, digits) {
  if (!formatters.has(digits)) {
    formatters.set(digits, new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  const text = formatters.get(digits).format(value);
  return (/^-[0.,]+$/.test(text) ? text.slice(1) : text).replace("-", "−");
}

export function number(value, digits = 2, { signed = false } = {}) {
  if (!known(value)) return MISSING;
  const text = format(value, digits);
  return signed && value > 0 && /[1-9]/.test(text) ? `+${text}` : text;
}

export const percent = (value, digits = 2, options = {}) =>
  known(value) ? `${number(value * 100, digits, options)}\u00a0%` : MISSING;

export const digitsOf = (price) => (Math.abs(price) >= 100 ? 2 : Math.abs(price) >= 1 ? 4 : 8);
export const price = (value) => (known(value) && value !== 0 ? number(value, digitsOf(value)) : MISSING);
export const quantity = (value, options = {}) =>
  known(value) ? number(value, Math.min(8, (String(value).split(".")[1] ?? "").length), options) : MISSING;

export const clock = (ms) => new Date(ms).toISOString().slice(11, 19);
const day = (ms) => new Date(ms).toISOString().slice(0, 10);
export const minute = (ms) => (ms ? new Date(ms).toISOString().slice(0, 16).replace("T", " ") : MISSING);
export const second = (ms) => new Date(ms).toISOString().slice(0, 19).replace("T", " ");

/** Draws the times of a list's rows: with the date if they are of more than one day. */
export function moments(rows) {
  const dated = new Set(rows.map((row) => day(row.at))).size > 1;
  const draw = (ms) => el("time", { datetime: new Date(ms).toISOString(), title: second(ms), text: dated ? second(ms) : clock(ms) });
  return Object.assign(draw, { dated });
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

/** An arrow beside the sign, so that no one has to tell colours apart. */
export const arrow = (value) => (value > 0 ? "▲" : value < 0 ? "▼" : "");
export const tone = (value) => (value > 0 ? "up" : value < 0 ? "down" : "");

export function el(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== "") element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A text from outside: a direction of its own, so that it can't turn what stands beside it. */
export const foreign = (text, attributes = {}) => el("bdi", { text, ...attributes });

export function table(element, columns, rows, empty) {
  if (!rows.length) {
    element.replaceChildren(el("tbody", {}, el("tr", {}, el("td", { class: "empty", text: empty }))));
    return;
  }
  const head = columns.map(([title, kind]) => el("th", { text: title, class: kind, scope: "col" }));
  const body = rows.map(({ cells, ...attributes }) =>
    el("tr", attributes, ...cells.map((cell, number) => {
      const [title, kind] = columns[number];
      const attributes = { class: kind, "data-title": title };
      return cell instanceof Node ? el("td", attributes, cell) : el("td", { ...attributes, text: cell });
    })));
  element.replaceChildren(el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
}
