// The views of a run: a tab list whose selection is in the location's hash.
import * as configuration from "./configuration.js";
import * as log from "./log.js";
import * as performance from "./performance.js";
import * as trades from "./trades.js";

const byId = (id) => document.getElementById(id);
const VIEWS = { now: null, trades, performance, log, configuration };
const REFRESH = 5_000; // ms, of the selected view of a running agent

let shown = null; // { run, live } whose views are shown
let onNow = () => {};

const tabs = () => [...byId("view-tabs").querySelectorAll("[role=tab]")];
const selected = () => {
  const name = location.hash.slice(1);
  return Object.hasOwn(VIEWS, name) ? name : "now";
};

function select() {
  const name = selected();
  for (const tab of tabs()) {
    const isSelected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(isSelected));
    tab.tabIndex = isSelected ? 0 : -1;
    if (isSelected) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  for (const view of Object.keys(VIEWS)) byId(`view-${view}`).hidden = view !== name;
  if (name === "now") onNow();
  else if (shown) VIEWS[name].show(shown);
}

function onKey(event) {
  const all = tabs();
  const at = all.indexOf(event.target);
  const last = all.length - 1;
  const moves = {
    ArrowRight: at === last ? 0 : at + 1, ArrowLeft: at === 0 ? last : at - 1, Home: 0, End: last,
  };
  const to = moves[event.key];
  if (to === undefined) return;
  event.preventDefault();
  all[to].focus();
  all[to].click();
}

/** Shows the views of a run. `live` is true for the running agent's. Can be called again for its next run. */
export function showViews(run, { live }) {
  if (shown?.run === run) return;
  shown = { run, live };
  byId("view-tabs").hidden = false;
  select();
}

/** Resolves once the view of the moment is selected. */
export function whenNowIsSelected() {
  return new Promise((resolve) => {
    const look = () => {
      if (selected() !== "now") return;
      window.removeEventListener("hashchange", look);
      resolve();
    };
    window.addEventListener("hashchange", look);
    look();
  });
}

/** `whenNow` is called whenever the view of the moment is selected. */
export function setUpViews(whenNow) {
  onNow = whenNow;
  byId("view-tabs").addEventListener("keydown", onKey);
  window.addEventListener("hashchange", select);
  let isRefreshing = false; // slow answers are waited for, not asked for again
  setInterval(async () => {
    const name = selected();
    if (!shown?.live || name === "now" || document.hidden || isRefreshing) return;
    isRefreshing = true;
    await VIEWS[name].refresh?.(shown);
    isRefreshing = false;
  }, REFRESH);
  select();
}
