// A recorded run under a change: the form, the job, and both lives over each other.
import { LivesChart } from "./charts.js";
import { element, fillTable, minute, number, second, tone, untrusted } from "./format.js";
import { Replay } from "./replays.js";
import { getJson } from "./requests.js";

const byId = (id) => document.getElementById(id);
const SEARCH_DELAY = 250; // ms after the last key

const changes = new Map(); // key -> { kind, name, value, text }
let run = "";
let currency = "";
let moment = 0;
let chart = null;
let recorded = { settings: {}, params: {}, sleeves: false };
let searched = 0; // number of the last search

const fromMoment = () => byId("what-if-from-moment").checked;

/** Sets up the form for a run; it is filled when it is first opened. */
export function setUpWhatIf(opened) {
  run = opened.run;
  currency = opened.currency;
  const panel = byId("what-if");
  panel.hidden = false;
  let filled = false;
  panel.addEventListener("toggle", () => {
    if (!panel.open || filled) return;
    filled = true;
    fill();
  });
  byId("to-what-if").hidden = false;
  byId("to-what-if").addEventListener("click", (event) => {
    event.preventDefault();
    open();
  });
  const job = new Replay(byId("what-if-job"), run, "Running both lives");
  byId("what-if-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!job.running) start(job);
  });
  byId("what-if-kind").addEventListener("change", showKind);
  for (const id of ["what-if-from-start", "what-if-from-moment"]) byId(id).addEventListener("change", search);
  let timer = null;
  byId("what-if-search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, SEARCH_DELAY);
  });
  byId("what-if-search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault(); // runs nothing yet
  });
  for (const kind of ["setting", "param"]) {
    byId(`what-if-${kind}-name`).addEventListener("change", () => showValue(kind));
    byId(`what-if-${kind}-add`).addEventListener("click", () => addValue(kind));
    byId(`what-if-${kind}-value`).addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      addValue(kind);
    });
  }
  addEventListener("pagehide", () => job.cancel({ keepalive: true }));
  showChanges();
}

/** Called when the slider selects another moment (UTC ms); `byUser` if a person moved it. */
export function setMoment(at, { byUser }) {
  moment = at;
  byId("what-if-moment").textContent = second(at);
  if (byUser && byId("what-if").open) byId("what-if-from-moment").checked = true;
}

/** Opens the form, with a headline to leave out if one is given. */
export function open(id = "", title = "") {
  byId("what-if").open = true;
  if (id) {
    byId("what-if-from-start").checked = true;
    addChange("remove", id, "", `without “${title}”`);
  }
  byId("what-if").scrollIntoView({ block: "start" });
  byId("what-if-summary").focus({ preventScroll: true });
}

async function fill() {
  try {
    recorded = await getJson(`api/runs/${encodeURIComponent(run)}/changeable`);
  } catch (error) {
    showError(error.message);
    return;
  }
  const groups = new Map();
  for (const key of Object.keys(recorded.settings)) {
    const [section] = key.split(".");
    if (!groups.has(section)) groups.set(section, element("optgroup", { label: section }));
    groups.get(section).append(element("option", { value: key, text: key }));
  }
  byId("what-if-setting-name").replaceChildren(...groups.values());
  byId("what-if-param-name").replaceChildren(
    ...Object.keys(recorded.params).map((name) => element("option", { value: name, text: name })));
  const none = !Object.keys(recorded.params).length;
  byId("what-if-kind").querySelector("[value=param]").disabled = none;
  for (const kind of ["setting", "param"]) showValue(kind);
  showKind();
  search();
}

function showKind() {
  const kind = byId("what-if-kind").value;
  for (const one of ["headline", "setting", "param"]) byId(`what-if-${one}`).hidden = one !== kind;
}

const valueOf = (kind, name) => (kind === "setting" ? recorded.settings : recorded.params)[name];
const inWords = (value) => (typeof value === "string" ? value : JSON.stringify(value));

function showValue(kind) {
  const value = valueOf(kind, byId(`what-if-${kind}-name`).value);
  byId(`what-if-${kind}-now`).textContent = value === undefined ? "" : `in the run: ${inWords(value)}`;
}

function addValue(kind) {
  const name = byId(`what-if-${kind}-name`).value;
  const value = byId(`what-if-${kind}-value`).value.trim();
  if (!name || !value) {
    byId(`what-if-${kind}-value`).focus();
    return;
  }
  addChange(kind, name, value, `${name} = ${value} (in the run ${inWords(valueOf(kind, name))})`);
  byId(`what-if-${kind}-value`).value = "";
}

function addChange(kind, name, value, text) {
  const isHeadline = kind === "remove" || kind === "flip";
  changes.set(isHeadline ? `headline ${name}` : `${kind} ${name}`, { kind, name, value, text });
  showChanges();
}

function showChanges() {
  const items = [...changes].map(([key, change]) => {
    const button = element("button", { type: "button", class: "small", text: "✕" });
    button.setAttribute("aria-label", `Take back: ${change.text}`);
    button.addEventListener("click", () => {
      changes.delete(key);
      showChanges();
      byId("what-if-run").focus();
    });
    return element("li", {}, untrusted(change.text), button);
  });
  const none = element("li", { class: "quiet", text: "no change yet: both lives would be the recorded run" });
  byId("what-if-changes").replaceChildren(...(items.length ? items : [none]));
}

async function search() {
  if (!byId("what-if").open) return;
  searched += 1;
  const own = searched;
  const query = new URLSearchParams({ search: byId("what-if-search").value });
  if (fromMoment()) query.set("after", String(moment));
  try {
    const found = await getJson(`api/runs/${encodeURIComponent(run)}/headlines?${query}`);
    if (own === searched) showHeadlines(found);
  } catch (error) {
    showError(error.message);
  }
}

function showHeadlines({ rows, matching }) {
  const where = fromMoment() ? " after the selected moment" : "";
  const shown = rows.length < matching ? `; the first ${number(rows.length, 0)} are listed` : "";
  byId("what-if-found").textContent =
    `${number(matching, 0)} ${matching === 1 ? "headline matches" : "headlines match"}${where}${shown}.`;
  byId("what-if-headlines").replaceChildren(...rows.map((row) => {
    const choose = (kind, label, text) => {
      const button = element("button", { type: "button", class: "small", text: label });
      button.setAttribute("aria-label", `${label}: ${row.title}`);
      button.addEventListener("click", () => addChange(kind, row.id, "", `${text} “${row.title}”`));
      return button;
    };
    const flip = choose("flip", "Flip", "read the other way round:");
    flip.disabled = !row.answer;
    return element("li", { "data-id": row.id },
      element("p", { class: "title" }, untrusted(row.title)),
      element("p", { class: "meta" },
        element("time", { text: minute(row.at) }), untrusted(row.source), row.symbols.join(", "),
        element("span", { class: row.answer, text: row.answer || "not scored" })),
      element("span", { class: "choices" }, choose("remove", "Remove", "without"), flip));
  }));
}

function request() {
  const body = { work: "whatif", begins: fromMoment() ? new Date(moment).toISOString() : "" };
  const chosen = [...changes.values()];
  const pairs = (kind) => Object.fromEntries(
    chosen.filter((one) => one.kind === kind).map((one) => [one.name, one.value]));
  const ids = (kind) => chosen.filter((one) => one.kind === kind).map((one) => one.name);
  return { ...body, change: pairs("setting"), ...ofStrategy(pairs("param")), remove: ids("remove"), flip: ids("flip") };
}

// With sleeves a parameter is named SLEEVE.PARAMETER, and those of one sleeve can change at a time
function ofStrategy(params) {
  if (!recorded.sleeves) return { params };
  const split = Object.entries(params).map(([name, value]) => [...name.split(/\.(.*)/s, 2), value]);
  if (new Set(split.map(([sleeve]) => sleeve)).size > 1) {
    throw new Error("Parameters of two sleeves are changed: take back those of one.");
  }
  return { sleeve: split[0]?.[0] ?? "", params: Object.fromEntries(split.map(([, name, value]) => [name, value])) };
}

async function start(job) {
  showError("");
  byId("what-if-answer").hidden = true;
  let body;
  try {
    body = request();
  } catch (error) {
    showError(error.message);
    return;
  }
  byId("what-if-run").disabled = true;
  const found = await job.start(body);
  byId("what-if-run").disabled = false;
  if (found) showAnswer(found, [...changes.values()].map((one) => one.text));
}

function showError(text) {
  byId("what-if-error").hidden = !text;
  byId("what-if-error").replaceChildren(untrusted(text));
}

function showAnswer(found, made) {
  byId("what-if-answer").hidden = false;
  const difference = Number(found.difference);
  const amount = `${number(Math.abs(difference))} ${currency}`;
  let verdict = "Both lives end with the same equity.";
  if (difference) verdict = `The changed life ends with ${amount} ${difference > 0 ? "more" : "less"}.`;
  byId("what-if-verdict").textContent = verdict;
  byId("what-if-verdict").className = tone(difference);
  const from = found.begins === 1 ? "from the beginning"
    : `from ${second(found.begins_at)} (event ${number(found.begins, 0)}) on`;
  byId("what-if-made").replaceChildren(untrusted(`${made.join("; ") || "without a change"}, ${from}.`));
  byId("what-if-remarks").replaceChildren(...found.remarks.map((text) => element("li", { text })));
  showFirst(found);
  fillTable(byId("what-if-figures"), [[""], ["As it was", "n"], ["Changed", "n"], ["Difference", "n"]],
    found.figures.map(({ name, values }) => ({ cells: [name, ...values] })), "");
  chart ??= new LivesChart(byId("what-if-lives"));
  chart.show(found.lives, found.begins === 1 ? null : found.begins_at);
  byId("what-if-answer").scrollIntoView({ block: "nearest" });
}

function showFirst({ first, begins, events }) {
  const box = byId("what-if-first");
  if (!first) {
    box.replaceChildren(element("p", {
      text: `No decision differs from event ${number(begins, 0)} of ${number(events, 0)} on.`,
    }));
    return;
  }
  const line = (title, text) => [element("dt", { text: title }), element("dd", {}, untrusted(text || "no decision"))];
  box.replaceChildren(
    element("p", { text: `The first decision that differs: event ${number(first.event, 0)}, ${second(first.at)}.` }),
    element("dl", { class: "first" },
      ...line("Event", first.input), ...line("As it was", first.as_it_was), ...line("Changed", first.changed)));
}
