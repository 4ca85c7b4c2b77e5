// The page of several agents: their state, totals by currency, and commands where they are allowed.
import { MISSING, duration, element, number, percent, quantity, second, tone, untrusted } from "./format.js";
import { getJson, postJson } from "./requests.js";

const POLL = 2_000; // ms
const SHOWN = 6; // positions of an agent
const RESUME_FROM_KILL = "resume from kill";
const byId = (id) => document.getElementById(id);
const COMMANDS = { pause: "Pause", resume: "Resume", flatten: "Flatten", kill: "Kill" };

let listed = { agents: [], totals: [], now: 0 };
let asked = null; // the agent, action and run of the open dialog

const signed = (value, currency) => element("span", { class: tone(value), text: `${number(value, 2, { signed: true })} ${currency}` });
const note = (text) => element("span", { class: "note" }, untrusted(text));
const cell = (title, options, ...children) => element("td", { "data-title": title, ...options }, ...children);

function totalTile(total) {
  const change = total.day_change === null ? [] : [signed(total.day_change, total.currency), " today · "];
  const counted = total.agents === total.of ? `${total.of} agents` : `${total.agents} of ${total.of} agents`;
  const rest = `exposure ${number(total.exposure)} · ${counted}`;
  const value = element("dd", { text: `${number(total.equity)} ${total.currency}` });
  value.append(element("div", { class: "note" }, ...change, rest));
  return element("div", { class: "tile" }, element("dt", { text: `Equity in ${total.currency}` }), value);
}

function nameCell(row) {
  const link = element("a", { href: row.url, target: "_blank", rel: "noopener" }, untrusted(row.name));
  const facts = [row.strategy, row.orders, row.run && `run ${row.run}`, row.version && `version ${row.version}`];
  return cell("Agent", {}, link, note(facts.filter(Boolean).join(" · ")));
}

function stateCell(row) {
  if (!row.reachable) {
    const since = row.since ? `since ${second(row.since)}` : "not asked yet";
    const pill = element("span", { class: "pill lost", text: row.since ? "unreachable" : "waiting" });
    return cell("State", {}, pill, note([since, row.why, row.hint].filter(Boolean).join(" · ")));
  }
  const pill = element("span", { class: `pill ${row.risk.toLowerCase()}`, text: row.risk });
  return cell("State", {}, pill, note([row.rule && `by ${row.rule}`, row.detail].filter(Boolean).join(": ")));
}

function figureCells(row) {
  const known = row.equity !== null;
  const equity = cell("Equity", { class: "n" }, known ? `${number(row.equity)} ${row.currency}` : MISSING);
  if (row.day_change !== null) equity.append(element("span", { class: "note" }, signed(row.day_change, row.currency), " today"));
  const exposure = cell("Exposure", { class: "n" }, known ? number(row.exposure) : MISSING);
  if (known) exposure.append(element("span", { class: "note", text: `drawdown ${percent(row.drawdown)}` }));
  return [equity, exposure];
}

const describePosition = (one) => `${one.symbol} ${quantity(one.qty, { signed: true })}, worth ${number(Math.abs(one.value))}`;

function positionsCell(row) {
  const lines = row.positions.slice(0, SHOWN).map((one) => element("div", {}, untrusted(describePosition(one))));
  const more = row.positions.length - SHOWN;
  if (more > 0) lines.push(note(`and ${more} more`));
  if (row.answered_at && !lines.length) lines.push("none");
  if (row.working) lines.push(note(`${row.working} working order${row.working > 1 ? "s" : ""}`));
  return cell("Positions", {}, ...(lines.length ? lines : [MISSING]));
}

function healthCell(row) {
  const age = row.answered_at ? duration(Math.max(0, listed.now - row.answered_at)) : "";
  const answered = row.answered_at ? `answered ${age} ago` : "never answered";
  if (!row.reachable) return cell("Health", {}, note(answered));
  const problems = row.problems.map((one) => element("div", { class: "down" }, untrusted(one)));
  return cell("Health", {}, ...(problems.length ? problems : ["ok"]), note(answered));
}

function commandsCell(row) {
  if (!row.commands) return cell("Commands", {}, note(row.no_commands ? `none: ${row.no_commands}` : MISSING));
  const off = { pause: row.risk !== "ACTIVE", resume: row.risk === "ACTIVE" };
  const buttons = Object.entries(COMMANDS).map(([action, text]) => {
    const label = `${text} ${row.name}`;
    const danger = action === "kill" ? "danger small" : "small";
    const button = element("button", { type: "button", class: danger, "data-action": action, "data-agent": row.name, "aria-label": label, text });
    button.disabled = Boolean(off[action]);
    return button;
  });
  return cell("Commands", {}, element("span", { class: "buttons" }, ...buttons));
}

function agentRow(row) {
  return element("tr", { "data-name": row.name, class: row.reachable ? "" : "gone" },
    nameCell(row), stateCell(row), ...figureCells(row), positionsCell(row), healthCell(row), commandsCell(row));
}

/** Replaces the cells that have changed, so that a button stays where it is while it is pressed or focused. */
function updateRows(body, rows) {
  const same = body?.rows.length === rows.length && rows.every((row, at) => row.dataset.name === body.rows[at].dataset.name);
  if (!same) return false;
  rows.forEach((row, at) => {
    const shown = body.rows[at];
    shown.className = row.className;
    [...row.cells].forEach((made, number) => {
      if (!shown.cells[number].isEqualNode(made)) shown.cells[number].replaceWith(made);
    });
  });
  return true;
}

function render() {
  byId("agent-totals").hidden = !listed.totals.length;
  byId("agent-totals").replaceChildren(...listed.totals.map(totalTile));
  const lost = listed.agents.filter((row) => !row.reachable).length;
  const text = listed.agents.length
    ? `${listed.agents.length} agents${lost ? `, ${lost} can't be reached; their figures are the last known, and no total counts them` : ""}`
    : "No agent is configured. List them as [[agents]] in the configuration of this page's server.";
  if (byId("agent-note").textContent !== text) byId("agent-note").textContent = text;
  const titles = ["Agent", "State", "Equity", "Exposure", "Positions", "Health", "Commands"];
  const head = titles.map((title) => element("th", { scope: "col", class: ["Equity", "Exposure"].includes(title) ? "n" : "", text: title }));
  byId("agent-table").hidden = !listed.agents.length;
  const rows = listed.agents.map(agentRow);
  if (updateRows(byId("agent-table").tBodies[0], rows)) return;
  byId("agent-table").replaceChildren(
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows));
}

const TEXTS = {
  pause: "No position will be opened or enlarged. Open positions keep their stops and may be reduced or closed.",
  resume: "New positions may be opened again. Drawdown and daily loss are measured anew from now on.",
  flatten: "These positions will be closed at the market price. The strategy may open new ones right away; pause first to stay flat.",
  kill: "All working orders will be cancelled, including stops. Trading is halted at once, also after a restart, until a resume is confirmed.",
};

function openDialog(row, action) {
  asked = { agent: row.name, action, run: row.run };
  const held = row.positions.map(describePosition);
  byId("agent-confirm-title").replaceChildren(`${COMMANDS[action]} `, untrusted(row.name), "?");
  const none = "No position is open. Working entry orders will be cancelled.";
  const stay = " Open positions stay, without protection, unless you close them too:";
  const text = action === "flatten" && !held.length ? none : TEXTS[action] + (action === "kill" && held.length ? stay : "");
  byId("agent-confirm-text").replaceChildren("Run ", untrusted(row.run), ". ", text);
  byId("agent-confirm-list").replaceChildren(...held.slice(0, 20).map((line) => element("li", {}, untrusted(line))));
  byId("agent-confirm-yes").replaceChildren(`${COMMANDS[action]} `, untrusted(row.name));
  byId("agent-confirm-extra").hidden = action !== "kill" || !held.length;
  byId("agent-confirm-flatten").checked = false;
  byId("agent-confirm-phrase").hidden = action !== "resume" || !row.killed;
  byId("agent-confirm-phrase").querySelector("span").textContent = `Type “${RESUME_FROM_KILL}” to confirm:`;
  byId("agent-confirm-typed").value = "";
  byId("agent-confirm-error").hidden = true;
  byId("agent-confirm-yes").disabled = false;
  byId("agent-confirm").showModal();
}

async function send() {
  const error = byId("agent-confirm-error");
  byId("agent-confirm-yes").disabled = true;
  const { agent, action, run } = asked;
  const command = { action, run };
  if (action === "kill") command.flatten = byId("agent-confirm-flatten").checked;
  if (action === "resume") command.confirm = byId("agent-confirm-typed").value.trim();
  try {
    await postJson("api/agents/command", { agent, command });
    byId("agent-confirm").close();
    await refresh();
  } catch (failure) {
    error.replaceChildren(untrusted(failure.message));
    error.hidden = false;
    byId("agent-confirm-yes").disabled = false;
  }
}

async function refresh() {
  listed = await getJson("api/agents");
  byId("to-live").hidden = !listed.live;
  render();
}

/** Shows the page, and keeps it up to date while it is visible. */
export async function showAgents() {
  byId("agents").hidden = false;
  byId("connection").hidden = true;
  document.title = "Agents · Tapewire";
  byId("agent-table").addEventListener("click", (event) => {
    const { agent, action } = event.target.closest("[data-action]")?.dataset ?? {};
    const row = listed.agents.find((one) => one.name === agent);
    if (row) openDialog(row, action);
  });
  byId("agent-confirm-yes").addEventListener("click", send);
  for (;;) {
    try {
      if (!document.hidden) await refresh();
      byId("banner").hidden = true;
      document.body.classList.remove("stale");
    } catch (failure) {
      byId("banner").replaceChildren(untrusted(failure.message));
      byId("banner").className = "banner lost";
      byId("banner").hidden = false;
      document.body.classList.add("stale");
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}
