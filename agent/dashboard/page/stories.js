// Which headlines earned or lost: the run's equity minus that of a life without each story.
import { element, fillTable, minute, number, tone, untrusted } from "./format.js";
import { Replay } from "./replays.js";

const byId = (id) => document.getElementById(id);

/** `onRemove(id, title)` is called to try a run without a story's only headline. */
export function setUpStories(run, onRemove) {
  const panel = byId("stories-panel");
  panel.hidden = false;
  const job = new Replay(byId("stories-job"), run, "Running a life without each story");
  byId("stories-run").addEventListener("click", async () => {
    byId("stories-run").hidden = true;
    const found = await job.start({ work: "stories" });
    if (found) show(found, onRemove);
    else byId("stories-run").hidden = false;
  });
}

function show({ rows, gap, moved, summary }, onRemove) {
  const columns = [["Contribution", "n"], ["Orders", "n"], ["First headline"], ["Headline", "reason"], ["Symbols"], [""]];
  const shown = rows.map((row) => ({ "data-id": row.story, cells: [
    element("span", { class: tone(row.contribution), text: number(row.contribution, 2, { signed: true }) }),
    number(row.orders - row.orders_without, 0, { signed: true }),
    minute(row.at),
    untrusted(row.title),
    row.symbols.join(" "),
    row.headlines === 1 ? removeButton(row, onRemove) : `${number(row.headlines, 0)} headlines`,
  ] }));
  if (gap !== null) {
    const text = `… ${number(moved - rows.length, 0)} with smaller contributions`;
    shown.splice(gap, 0, { class: "more", cells: ["", "", "", text, "", ""] });
  }
  fillTable(byId("stories"), columns, shown, "No story changed the result.");
  byId("stories-summary").textContent = `${summary[0].toUpperCase()}${summary.slice(1)}. ` +
    "Contributions don't add up to the result: without one story, another may lead to the same trade.";
}

function removeButton(row, onRemove) {
  const button = element("button", { type: "button", class: "small", text: "What if not?" });
  button.setAttribute("aria-label", `What if not: ${row.title}`);
  button.addEventListener("click", () => onRemove(row.story, row.title));
  return button;
}
