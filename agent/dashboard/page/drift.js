// The block "Model drift" of the health panel: recent headlines against the model's training texts.
import { MISSING, element, fillTable, number, percent, untrusted } from "./format.js";

const share = (value) => percent(value, 1);

/** The bin whose share changed most, as `bullish 62 % (35 %)`; of two bins the first. */
function shift({ bins, live, reference }) {
  if (!live.length) return MISSING;
  const sizes = reference.length ? live.map((value, at) => Math.abs(value - reference[at])) : live;
  const at = bins.length > 2 ? sizes.indexOf(Math.max(...sizes)) : 0;
  return `${bins[at]} ${share(live[at])}${reference.length ? ` (${share(reference[at])})` : ""}`;
}

function comparisonTable({ comparisons, confidence, reference_confidence: trained }) {
  const table = element("table");
  const columns = [["Model drift"], ["State"], ["PSI", "n"], ["Now (training)", "n"]];
  const mean = `mean ${share(confidence)}${trained === null ? "" : ` (${share(trained)})`}`;
  fillTable(table, columns, comparisons.map((one) => ({ cells: [
    one.of,
    element("span", { class: `drift ${one.state}`, text: one.state }),
    element("span", {
      title: one.chance === null ? "" : `by chance up to ${number(one.chance, 3)}`, text: number(one.psi, 3),
    }),
    one.of === "confidence" ? mean : shift(one),
  ] })), "");
  return table;
}

function movesNote({ sides, horizon, unmoved, unpriced, pending }) {
  const { calls, headlines, rate, low, high, confidence } = sides.all;
  const minutes = number(horizon / 60_000, 0);
  const left = `${number(pending, 0)} pending, ${number(unmoved, 0)} unmoved, ` +
    `${number(unpriced, 0)} without a price`;
  if (!calls) return `No call has a price move of ${minutes} min yet (${left}).`;
  return `Price ${minutes} min later as predicted: ${share(rate)} [${share(low)}, ${share(high)}] of ` +
    `${number(calls, 0)} calls on ${number(headlines, 0)} headlines, at a mean confidence of ` +
    `${share(confidence)} (${left}). Near 50 % is to be expected: most headlines report a move that has happened.`;
}

/** Returns the elements of the block; none if the strategy uses no model. */
export function driftBlock(status) {
  if (!status) return [];
  const { drift, moves, window: size } = status;
  const counted = `the last ${number(drift.headlines, 0)} of at most ${number(size, 0)} headlines`;
  const verdict = element("p", { class: "note", id: "model-drift" },
    "Model drift: ", element("span", { class: `drift ${drift.state}`, text: drift.state }),
    ` on ${counted}${drift.reason ? ": " : "."}`, drift.reason ? untrusted(`${drift.reason}.`) : "");
  return [
    verdict,
    element("div", { class: "scroll" }, comparisonTable(drift)),
    element("p", { class: "note" }, movesNote(moves)),
  ];
}
