// The form that starts a job: its kind, the strategy with its parameters and their bounds, the data.
import { duration, element, minute, number, untrusted } from "./format.js";
import { getJson, postJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const seed = { name: "seed", label: "Seed", type: "number", value: 0, min: 0 };
const placebo = { name: "placebo", label: "Replays with shuffled headlines", type: "number", value: 20, min: 0, max: 500 };
const points = { name: "points", label: "Values of a range without a step", type: "number", value: 5, min: 1, max: 100 };

/** Kind of job -> name, description, own fields, whether it replays history and whether it searches parameters. */
export const KINDS = {
  backtest: { title: "Backtest", text: "Replays history once. The result is a run like any other.", fields: [] },
  walkforward: {
    title: "Walk-forward", text: "Judges the strategy fold by fold, on time after the data that it was fitted on.",
    fields: [
      { name: "train", label: "Fit on", type: "text", value: "180d" },
      { name: "test", label: "Judge on", type: "text", value: "30d" },
      { name: "embargo", label: "Left out between the two", type: "text", value: "1d" },
      { name: "fit", label: "Fit", type: "select", options: [["none", "nothing"], ["refit", "the parameters, in each fold"]] },
      points, placebo, seed,
    ],
    searches: () => byId("job-own-fit")?.value === "refit",
  },
  sweep: {
    title: "Sweep", text: "Replays history once for all combinations of the values to try. The best of many is mostly luck.",
    fields: [
      points,
      { name: "limit", label: "Most variants", type: "number", value: 500, min: 1, max: 2000 },
      { name: "store", label: "Also record each variant as a run", type: "check" },
    ],
    searches: () => true,
  },
  tune: {
    title: "Tune", text: "Searches parameters, and judges the best on time that the search has not seen.",
    fields: [
      { name: "trials", label: "Trials", type: "number", value: 50, min: 1, max: 2000 },
      { name: "folds", label: "Parts of the time to search on", type: "number", value: 4, min: 1, max: 50 },
      { name: "holdout", label: "Held-out end of the window", type: "text", value: "", placeholder: "a quarter" },
      { name: "embargo", label: "Left out before it", type: "text", value: "1d" },
      placebo, seed,
    ],
    searches: () => true,
  },
  "check-lookahead": {
    title: "Check: lookahead", text: "Does the strategy use information that it can't have yet?",
    fields: [{ name: "cuts", label: "Times at which the history is cut", type: "number", value: 12, min: 2, max: 100 }, seed],
  },
  "check-startup": { title: "Check: warm-up", text: "Do decisions change if the strategy reads more bars before the start?", fields: [] },
  "check-placebo": {
    title: "Check: placebo", text: "Does the news make the result? Headlines shuffled in time must do worse.",
    fields: [{ name: "draws", label: "Replays with shuffled headlines", type: "number", value: 40, min: 19, max: 500 }, seed],
  },
  "check-masked": { title: "Check: masked names", text: "Does the model read the text, or recall names?", fields: [seed] },
  "check-costs": {
    title: "Check: costs", text: "At which costs and latency is the profit gone?",
    fields: [{ name: "margin", label: "Multiple of the costs to survive", type: "number", value: 1.5, min: 1, max: 100, step: "any" }],
  },
  download: {
    title: "Download klines", text: "Writes SYMBOL-INTERVAL.parquet into the first data folder, or continues that file.", replays: false,
    fields: [
      { name: "symbol", label: "Symbol", type: "text", value: "BTCUSDT", required: true },
      { name: "interval", label: "Interval", type: "text", value: "1h" },
      { name: "start", label: "From", type: "date", required: true },
      { name: "end", label: "Until", type: "date" },
      { name: "category", label: "Market", type: "select", options: [["linear", "perpetuals"], ["spot", "spot"]] },
      { name: "source", label: "Source", type: "select", options: [["bybit", "Bybit"], ["yahoo", "Yahoo"]] },
    ],
  },
  import: {
    title: "Import headlines", text: "Converts a file of headlines that lies in a data folder: clean texts, no duplicates, sorted.", replays: false,
    fields: [
      { name: "file", label: "File", type: "file", required: true },
      { name: "name", label: "Name of the new file", type: "text", value: "news", required: true },
      { name: "timezone", label: "Zone of times that state none", type: "text", value: "", placeholder: "such as UTC" },
    ],
  },
};

/** An option that stands for no choice. */
const unset = (text) => Object.assign(element("option", { text }), { value: "" });

const kind = () => KINDS[byId("job-kind").value];
let strategies = { items: [], configured: "" };
let files = [];
let described = 0; // number of the last strategy that was asked for

/** Sets up the form; `started` is called with each job that it starts. */
export async function setUpForm(started) {
  byId("job-kind").replaceChildren(...Object.entries(KINDS).map(([value, { title }]) => element("option", { value, text: title })));
  byId("job-kind").addEventListener("change", showKind);
  byId("job-strategy").addEventListener("change", showStrategy);
  byId("job-fields").addEventListener("change", showSearch);
  byId("job-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    byId("job-start-button").disabled = true;
    try {
      showError("");
      started(await postJson("api/v1/jobs", request()));
    } catch (error) {
      showError(error.message);
    } finally {
      byId("job-start-button").disabled = false;
    }
  });
  showKind();
  strategies = await getJson("api/v1/strategies");
  const own = strategies.items.map(({ name, doc }) => element("option", { value: name, text: doc ? `${name}: ${doc}` : name }));
  const configured = strategies.configured ? `as configured: ${strategies.configured}` : "as configured: the sleeves";
  byId("job-strategy").replaceChildren(unset(configured), ...own);
  await showStrategy();
}

function showError(text) {
  byId("job-error").hidden = !text;
  byId("job-error").replaceChildren(untrusted(text));
}

function showKind() {
  const { text, fields, replays = true } = kind();
  byId("job-text").textContent = text;
  byId("job-replay").hidden = byId("job-window").hidden = byId("job-params-box").hidden = !replays;
  byId("job-fields").replaceChildren(...fields.map(field));
  byId("job-own").hidden = !fields.length;
  showFiles();
  showSearch();
}

function field({ name, label, type, value, options, ...rest }) {
  const id = `job-own-${name}`;
  if (type === "check") {
    return element("label", { class: "tick" }, element("input", { id, type: "checkbox" }), ` ${label}`);
  }
  const given = Object.fromEntries(Object.entries(rest).map(([key, one]) => [key, one === true ? key : String(one)]));
  const input = options || type === "file"
    ? element("select", { id, ...given }, ...(options ?? []).map(([key, text]) => element("option", { value: key, text })))
    : element("input", { id, type, value: value === undefined ? "" : String(value), autocomplete: "off", ...given });
  return element("label", { class: "field" }, `${label} `, input);
}

function showSearch() {
  const searches = kind().searches?.() ?? false;
  for (const input of byId("job-params").querySelectorAll(".range")) input.hidden = !searches;
  byId("job-ranges-note").hidden = !searches;
}

async function showStrategy() {
  described += 1;
  const own = described;
  const name = byId("job-strategy").value || strategies.configured;
  const box = byId("job-params");
  byId("job-reads").textContent = "";
  box.replaceChildren(element("p", { class: "quiet", text: name ? "Reading the parameters …" : "The sleeves have their own parameters." }));
  if (!name) return;
  try {
    const found = await getJson(`api/v1/strategy?${new URLSearchParams({ name })}`);
    if (own !== described) return;
    byId("job-reads").textContent = `It reads ${found.reads.join(", ") || "nothing"}.`;
    const rows = found.parameters.map(parameter);
    box.replaceChildren(...(rows.length ? rows : [element("p", { class: "quiet", text: "no parameters" })]));
    showSearch();
  } catch (error) {
    if (own === described) box.replaceChildren(element("p", { class: "error" }, untrusted(error.message)));
  }
}

/** A row for a parameter: its value, and the values to try in a search. */
function parameter({ name, type, default: initial, low, high, above, below, choices, description }) {
  const shown = (value) => (type === "duration" ? duration(value) : String(value));
  const bounds = [
    low === null ? "" : `${above ? "above" : "from"} ${shown(low)}`,
    high === null ? "" : `${below ? "below" : "to"} ${shown(high)}`,
  ].filter(Boolean).join(" ");
  const usual = initial === null ? "off by default" : `default ${shown(initial)}`;
  const note = [usual, bounds, description].filter(Boolean).join("; ");
  const id = `job-param-${name}`;
  const numeric = type === "int" || type === "float";
  const input = choices.length
    ? element("select", { id, "data-param": name }, unset("default"),
      ...choices.map((one) => element("option", { value: String(one), text: String(one) })))
    : element("input", {
      id, "data-param": name, type: numeric ? "number" : "text", step: numeric ? "any" : "", autocomplete: "off",
      placeholder: initial === null ? "" : shown(initial), "aria-describedby": `${id}-note`,
      min: numeric && low !== null && !above ? String(low) : "", max: numeric && high !== null && !below ? String(high) : "",
    });
  const range = element("label", { class: "field range" }, "to try ",
    element("input", { id: `${id}-range`, "data-range": name, type: "text", autocomplete: "off", placeholder: "5:50:5 or 5,10" }));
  return element("div", { class: "parameter" },
    element("label", { class: "field" }, untrusted(name), " ", input), range,
    element("p", { id: `${id}-note`, class: "note" }, untrusted(note)));
}

/** Offers the data files, with what is known of them. */
export function offerFiles(items) {
  files = items;
  showFiles();
}

export function factsInWords({ facts }) {
  if (!facts) return "being read";
  if (facts.kind === "unknown") return facts.note;
  const interval = facts.interval ? `${facts.symbol} ${duration(facts.interval)}, ` : "";
  const gaps = facts.interval ? `, ${facts.gaps ? `${number(facts.gaps, 0)} gaps` : "no gaps"}` : "";
  return `${interval}${minute(facts.first)} to ${minute(facts.end)}${gaps}`;
}

function showFiles() {
  const chosen = new Set([...byId("job-klines").querySelectorAll(":checked")].map((box) => box.value));
  const ofKind = (wanted) => files.filter(({ facts }) => facts?.kind === wanted);
  const ticks = ofKind("klines").map((file) => {
    const box = element("input", { type: "checkbox", name: "klines", value: file.name });
    box.checked = chosen.has(file.name);
    return element("label", { class: "tick" }, box, " ", untrusted(file.name), element("span", { class: "note", text: ` ${factsInWords(file)}` }));
  });
  const focused = document.activeElement?.closest?.("#job-klines")?.querySelector(":focus")?.value;
  const noKlines = files.some(({ facts }) => !facts) ? "files are being read" : "no kline files yet: download some";
  byId("job-klines").replaceChildren(...(ticks.length ? ticks : [element("p", { class: "quiet", text: noKlines })]));
  if (focused) [...byId("job-klines").querySelectorAll("input")].find((box) => box.value === focused)?.focus();
  const offer = (id, none, items) => {
    const select = byId(id);
    if (!select) return;
    const before = select.value;
    const options = items.map((file) => element("option", { value: file.name, text: `${file.name} (${factsInWords(file)})` }));
    select.replaceChildren(...(none ? [unset(none)] : []), ...options);
    if (items.some((file) => file.name === before)) select.value = before;
  };
  offer("job-news", "as configured", ofKind("news"));
  offer("job-funding", "as configured", ofKind("funding"));
  offer("job-own-file", "", files.filter(({ facts }) => facts?.kind !== "klines"));
}

function request() {
  const { fields, replays = true, searches } = kind();
  const body = { kind: byId("job-kind").value };
  for (const { name, type } of fields) {
    const input = byId(`job-own-${name}`);
    if (type === "check") body[name] = input.checked;
    else if (input.value.trim()) body[name] = type === "number" ? Number(input.value) : input.value.trim();
  }
  if (!replays) return body;
  const valueOf = (id) => byId(id).value.trim();
  if (valueOf("job-strategy")) body.strategy = valueOf("job-strategy");
  body.klines = [...byId("job-klines").querySelectorAll(":checked")].map((box) => box.value);
  for (const name of ["news", "funding", "start", "end"]) if (valueOf(`job-${name}`)) body[name] = valueOf(`job-${name}`);
  const given = (name) => [...byId("job-params").querySelectorAll(`[data-${name}]`)]
    .map((input) => [input.dataset[name], input.value.trim()]).filter(([, value]) => value);
  body.params = Object.fromEntries(given("param"));
  if (searches?.()) body.ranges = given("range").map(([name, range]) => `${name}=${range}`);
  return body;
}
