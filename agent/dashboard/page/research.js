// Research: jobs at the server with their progress, results and logs, and the data files.
import { address, element, fillTable, minute, number, percent, second, duration, tone, untrusted } from "./format.js";
import { KINDS, factsInWords, offerFiles, setUpForm } from "./research-form.js";
import { getJson, postJson } from "./requests.js";

const POLL = 1_000; // ms while a job runs or waits
const SLOW_POLL = 10_000; // ms otherwise
const RUNS_SHOWN = 12;
const byId = (id) => document.getElementById(id);
const cards = new Map(); // id of the job -> its card
const compared = []; // ids of the ticked runs, the last two
let timer = null;
let asked = 0; // number of the latest request; the others are out of date
let wasActive = true; // a job has run since the data files were read

export async function startResearch() {
  byId("research").hidden = false;
  byId("connection").hidden = true;
  document.title = "Research · Tapewire";
  try {
    showJobs(await getJson("api/v1/jobs"));
    byId("research-tools").hidden = false;
    poll();
  } catch (error) {
    byId("research-off").replaceChildren(untrusted(error.message));
    byId("research-off").hidden = false;
    return;
  }
  try {
    await setUpForm((job) => {
      showJob(job, { first: true });
      cards.get(job.id).root.scrollIntoView({ block: "nearest" });
      byId("job-announcement").textContent = `${KINDS[job.kind].title} started.`;
      poll();
    });
  } catch (error) {
    byId("job-error").replaceChildren(untrusted(`${error.message}; reload the page`));
    byId("job-error").hidden = false;
  }
}

async function poll() {
  clearTimeout(timer);
  asked += 1;
  const request = asked;
  let active = false;
  try {
    if (!document.hidden) {
      const listed = await getJson("api/v1/jobs");
      if (request !== asked) return; // it may lack a job that has been started since
      active = showJobs(listed);
      const isReading = !active && wasActive && await readFiles();
      wasActive = active || isReading;
      for (const card of cards.values()) if (card.log.open) await card.readLog();
    }
    byId("research-off").hidden = true;
  } catch (error) {
    byId("research-off").replaceChildren(untrusted(error.message));
    byId("research-off").hidden = false;
  }
  if (request !== asked) return;
  timer = setTimeout(poll, active || wasActive ? POLL : SLOW_POLL);
}

/** Shows the data files; returns whether some are still being read. */
async function readFiles() {
  const { items, left_out: leftOut, reading } = await getJson("api/v1/data");
  const note = [reading ? "Files are being read." : "", leftOut ? `${number(leftOut, 0)} more files are not listed.` : ""].filter(Boolean).join(" ");
  byId("data-note").textContent = note;
  byId("data-note").hidden = !reading && !leftOut;
  offerFiles(items);
  const columns = [["File"], ["Kind"], ["Content"], ["Rows", "n"], ["Gaps", "n"], ["Size", "n"], ["Changed"]];
  const rows = items.map((file) => ({
    "data-file": file.name,
    cells: [
      untrusted(file.name), file.facts?.kind ?? "", element("span", { class: "content" }, untrusted(factsInWords(file))),
      file.facts?.rows ? number(file.facts.rows, 0) : "",
      file.facts?.interval ? `${number(file.facts.gaps ?? 0, 0)} (${number(file.facts.missing ?? 0, 0)} bars)` : "",
      `${number(file.size / 1e6, file.size < 1e5 ? 3 : 1)} MB`, minute(file.changed_at),
    ],
  }));
  fillTable(byId("data-table"), columns, rows, "No data files. Download klines, or put files into a data folder.");
  return reading;
}

const isActive = ({ state }) => state === "waiting" || state === "running";

/** Shows the jobs, newest first; returns whether one runs or waits. */
function showJobs({ items }) {
  const known = new Set(items.map(({ id }) => id));
  for (const [id, card] of cards) {
    if (known.has(id)) continue;
    card.root.remove();
    cards.delete(id);
  }
  for (const job of [...items].reverse()) showJob(job);
  byId("no-jobs").hidden = items.length > 0;
  return items.some(isActive);
}

function showJob(job) {
  if (!cards.has(job.id)) {
    const card = new JobCard(job);
    cards.set(job.id, card);
    byId("job-list").prepend(card.root);
    byId("no-jobs").hidden = true;
  }
  cards.get(job.id).show(job);
}

class JobCard {
  #shown = "";

  constructor(job) {
    this.id = job.id;
    const title = KINDS[job.kind]?.title ?? job.kind;
    const about = job.request.strategy || job.request.symbol || job.request.file || "configured strategy";
    this.title = `${title} of ${about}`;
    this.state = element("span", { class: "pill" });
    this.meta = element("p", { class: "meta" });
    this.bar = element("progress", { max: "1", "aria-label": `Progress: ${this.title}` });
    this.line = element("span", {});
    this.cancel = element("button", { type: "button", text: "Cancel", "aria-label": `Cancel: ${this.title}` });
    this.cancel.addEventListener("click", () => this.#cancel());
    this.progress = element("p", { class: "job" }, this.bar, this.line, this.cancel);
    this.error = element("p", { class: "error" });
    this.result = element("div", {});
    this.tail = element("pre", { tabindex: "0", "aria-label": `Log: ${this.title}` });
    this.log = element("details", {}, element("summary", { text: "Command and log" }), this.tail);
    this.log.addEventListener("toggle", () => this.log.open && this.readLog());
    this.root = element("li", { "data-job": job.id },
      element("h3", {}, `${title} `, untrusted(`of ${about}`), " ", this.state),
      this.meta, this.progress, this.error, this.result, this.log);
  }

  show(job) {
    const text = JSON.stringify(job);
    if (text === this.#shown) return;
    const ended = this.#shown && !isActive(job) && isActive(JSON.parse(this.#shown));
    this.#shown = text;
    this.root.dataset.state = job.state;
    this.state.textContent = job.state;
    this.state.className = `pill ${{ done: "live", failed: "lost" }[job.state] ?? "quiet"}`;
    const took = job.started_at && job.ended_at ? `took ${duration(job.ended_at - job.started_at)}` : "";
    this.meta.replaceChildren(element("time", { text: second(job.created_at) }), untrusted(`by ${job.by}`), took);
    this.progress.hidden = !isActive(job);
    if (job.share) this.bar.value = job.share;
    else this.bar.removeAttribute("value");
    this.line.textContent = job.state === "waiting" ? "waiting for other jobs" : `${job.line}${job.share ? ` ${percent(job.share, 0)}` : ""}`;
    this.error.hidden = !job.error || job.state === "cancelled";
    this.error.replaceChildren(untrusted(job.hint ? `${job.error} (${job.hint})` : job.error));
    this.#showResult(job);
    if (ended) byId("job-announcement").textContent = `${this.title}: ${job.state}. ${job.summary?.verdict ?? ""}`;
  }

  #showResult({ summary, runs, state }) {
    this.result.hidden = state !== "done";
    if (state !== "done") return;
    const figures = [
      ["Return", percent(summary?.total_return, 2, { signed: true }), tone(summary?.total_return)],
      ["Sharpe", number(summary?.sharpe)],
      ["Deflated Sharpe", percent(summary?.deflated_sharpe, 1)],
      ["Drawdown", percent(summary?.max_drawdown)],
      ["Round trips", summary?.trades === undefined || summary.trades === null ? "–" : number(summary.trades, 0)],
      ["Tries", summary?.tries ? number(summary.tries, 0) : "–"],
    ].filter(([, value]) => value !== "–");
    const best = Object.entries(summary?.params ?? {}).map(([name, value]) => `${name}=${value}`).join(" ");
    this.result.replaceChildren(...[
      element("p", { class: `verdict ${{ good: "up", bad: "down" }[summary?.tone] ?? ""}` }, untrusted(summary?.verdict ?? "")),
      element("dl", { class: "figures" }, ...figures.flatMap(([name, value, colour]) =>
        [element("div", {}, element("dt", { text: name }), element("dd", { class: colour, text: value }))])),
      best ? element("p", { class: "note" }, untrusted(`best: ${best}`)) : null,
      ...this.#runs(runs),
    ].filter(Boolean));
  }

  #runs(runs) {
    if (!runs.length) return [];
    const rows = runs.slice(0, RUNS_SHOWN).map((run) => {
      const box = element("input", { type: "checkbox", "aria-label": `Compare run ${run}` });
      box.checked = compared.includes(run);
      box.addEventListener("change", () => compare(run, box.checked));
      const at = `runs/${encodeURIComponent(run)}`;
      return element("li", { "data-run": run }, box,
        element("a", { href: address(at), text: run }), " ",
        element("a", { href: address(`${at}/report`), target: "_blank", rel: "noopener", text: "report", "aria-label": `Report of run ${run}` }));
    });
    const rest = runs.length - rows.length;
    return [
      element("ul", { class: "runs" }, ...rows),
      rest > 0 ? element("p", { class: "note" }, `and ${number(rest, 0)} more in the list of runs`) : null,
    ];
  }

  async #cancel() {
    this.cancel.disabled = true;
    try {
      this.show(await postJson(`api/v1/jobs/${this.id}/cancel`));
    } catch (error) {
      this.error.hidden = false;
      this.error.replaceChildren(untrusted(error.message));
    }
    this.cancel.disabled = false;
  }

  async readLog() {
    const { command, tail } = await getJson(`api/v1/jobs/${this.id}`);
    const text = `${command}\n\n${tail || "nothing written"}`;
    if (this.tail.textContent !== text) this.tail.textContent = text;
  }
}

function compare(run, ticked) {
  const at = compared.indexOf(run);
  if (at >= 0) compared.splice(at, 1);
  if (ticked) compared.push(run);
  if (compared.length > 2) {
    const dropped = compared.shift();
    for (const box of document.querySelectorAll("[data-run] input")) {
      if (box.parentElement.dataset.run === dropped) box.checked = false;
    }
  }
  const [a, b] = compared.map(encodeURIComponent);
  const link = byId("job-compare");
  link.hidden = compared.length < 2;
  link.href = address(compared.length < 2 ? "runs" : `runs/${a}/compare/${b}`);
  link.textContent = `Compare ${compared.join(" with ")}`;
}
