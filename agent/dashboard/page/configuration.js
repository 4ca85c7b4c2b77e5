// The view of what a run ran with: settings beside their defaults, versions, input files, cards of models.
import { MISSING, element, fillTable, minute, number, percent, untrusted } from "./format.js";
import { getJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const STATES = {
  changed: "Differs from the default", given: "Given, without a default", default: "Defaults",
};

let run = "";
let settings = [];

function text(value) {
  if (value === null) return "none";
  return typeof value === "string" && value ? value : JSON.stringify(value);
}

async function load() {
  const error = byId("configuration-error");
  const wanted = run;
  try {
    const found = await getJson(`api/v1/runs/${encodeURIComponent(wanted)}/configuration`);
    if (run !== wanted) return;
    error.hidden = true;
    render(found);
  } catch (problem) {
    if (run !== wanted) return;
    run = ""; // the next look tries again
    error.replaceChildren(untrusted(problem.message));
    error.hidden = false;
  }
}

function render({ settings: all, versions, inputs, models, notes }) {
  settings = all;
  showSettings();
  fillTable(byId("configuration-versions"), [["Of"], ["Version", "reason"]],
    Object.entries(versions).map(([name, value]) => ({ cells: [name, untrusted(value)] })), "None recorded.");
  fillTable(byId("configuration-inputs"), [["Role"], ["Symbol"], ["Rows", "n"], ["File", "reason"], ["SHA-256", "reason"]],
    inputs.map((file) => ({ cells: [
      file.role, file.symbol || MISSING, file.rows ? number(file.rows, 0) : MISSING, untrusted(file.path),
      element("code", { text: file.sha256 }),
    ] })), "A live run's inputs are in its journal.");
  byId("configuration-models").replaceChildren(...models.map(card));
  byId("configuration-no-model").hidden = models.length > 0;
  byId("configuration-notes").replaceChildren(...notes.map((note) => element("li", {}, untrusted(note))));
}

function showSettings() {
  const words = byId("configuration-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const matching = settings.filter(({ key, value }) => {
    const line = `${key} ${text(value)}`.toLowerCase();
    return words.every((word) => line.includes(word));
  });
  for (const [state, title] of Object.entries(STATES)) {
    const rows = matching.filter((one) => one.state === state);
    const columns = [["Setting"], ["Value", "reason"], ...(state === "changed" ? [["Default", "reason"]] : [])];
    byId(`configuration-${state}-title`).textContent = `${title} (${number(rows.length, 0)})`;
    fillTable(byId(`configuration-${state}`), columns, rows.map((one) => ({ "data-key": one.key, cells: [
      element("code", { text: one.key }),
      element("code", {}, untrusted(text(one.value))),
      ...(state === "changed" ? [element("code", { class: "quiet" }, untrusted(text(one.default)))] : []),
    ] })), words.length ? "None matches." : "None.");
  }
  if (words.length) byId("configuration-defaults").open = true;
}

function card({ setting, folder, card: facts }) {
  const table = element("table");
  const trained = facts.trained_until ? `${minute(facts.trained_until)} UTC` : "never (no dated event seen)";
  const rows = [
    ["Base", facts.base], ["Method", facts.method], ["Trained until", trained],
    ["Threshold", number(facts.threshold)], ["Temperature", number(facts.temperature, 3)],
    ["Fingerprint", facts.fingerprint],
    ["Data", facts.datasets.map((one) => `${one.name} (${number(one.rows, 0)} rows)`).join(", ") || "none"],
    ...Object.entries(facts.metrics).map(([name, figures]) => [`On ${name}`, Object.entries(figures)
      .map(([figure, one]) => `${figure} ${number(one.value, 3)} [${number(one.low, 3)}, ${number(one.high, 3)}]`)
      .join(", ")]),
    ["Abstains, in its reference", facts.reference ? percent(facts.reference.abstained, 1) : MISSING],
  ];
  fillTable(table, [["Of the card"], ["", "reason"]], rows.map(([name, value]) => ({
    cells: [name, untrusted(String(value ?? MISSING))],
  })), "");
  table.querySelector("thead th:last-child")?.replaceChildren(element("span", { class: "unseen", text: "Value" }));
  return element("section", {},
    element("h3", {}, element("code", { text: setting }), " = ", untrusted(folder)),
    element("div", { class: "scroll" }, table));
}

let isSetUp = false;

export function show(shown) {
  if (!isSetUp) {
    byId("configuration-search").addEventListener("input", showSettings);
    byId("configuration-form").addEventListener("submit", (event) => event.preventDefault());
  }
  isSetUp = true;
  if (run === shown.run) return;
  run = shown.run;
  load();
}
