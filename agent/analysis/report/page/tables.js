"use strict";
// Tables: columns that sort, and the list of round trips with its filter, pages and CSV file.
{
  const PER_PAGE = 50;

  const valueOf = (cell) => {
    const text = cell?.dataset.value ?? cell?.textContent.trim() ?? "";
    const number = Number(text.replaceAll(",", "").replace("−", "-").replace(/[\s\u00a0]*%$/, ""));
    return text === "" || Number.isNaN(number) ? text : number;
  };

  function compare(a, b) {
    const missing = (value) => value === "" || value === "–" || value === null || value === undefined;
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  }

  /** Makes a head cell a button that calls `sort(descending)`. The first click on a number sorts from above. */
  function sortButton(cell, sort) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = cell.textContent;
    cell.replaceChildren(button);
    button.addEventListener("click", () => {
      const before = cell.getAttribute("aria-sort");
      const descending = before ? before === "ascending" : cell.classList.contains("n");
      for (const other of cell.parentElement.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(descending ? -1 : 1);
    });
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => sortButton(head, (sign) => {
      const rows = [...body.rows].map((row) => [valueOf(row.cells[column]), row]);
      rows.sort((a, b) => {
        const order = compare(a[0], b[0]);
        return typeof a[0] === typeof b[0] ? sign * order : order; // what is missing stays at the end
      });
      body.append(...rows.map(([, row]) => row));
    }));
  }

  class RoundTrips {
    #sort = null;
    #page = 0;
    #words = "";

    constructor(section, trades) {
      this.trades = trades;
      this.table = section.querySelector("table");
      this.body = this.table.tBodies[0];
      const keys = ["", "symbol", "long", "pnl", "return", "entry", "exit", "duration", "qty", "entry_price",
        "exit_price", "fees", "funding", "reason"];
      [...this.table.tHead.rows[0].cells].forEach((cell, column) => {
        if (keys[column]) {
          sortButton(cell, (sign) => this.#change(() => { this.#sort = { key: keys[column], sign }; }));
        }
      });
      const bar = element("div", "", "tools");
      this.filter = element("input");
      Object.assign(this.filter, { type: "search", placeholder: "Filter: symbol, reason, headline" });
      this.filter.setAttribute("aria-label", "Filter the round trips");
      this.filter.addEventListener("input", () => this.#change(() => {
        this.#words = this.filter.value.toLowerCase();
      }));
      this.earlier = this.#button("‹", "Previous page", () => { this.#page -= 1; this.show(); });
      this.later = this.#button("›", "Next page", () => { this.#page += 1; this.show(); });
      this.state = element("output");
      bar.append(this.filter, this.earlier, this.state, this.later, this.#button("CSV", "Download the listed round trips as CSV",
        () => this.download()));
      section.insertBefore(bar, section.querySelector(".scroll"));
      this.show();
    }

    #button(text, label, act) {
      const button = element("button", text);
      button.type = "button";
      button.setAttribute("aria-label", label);
      button.addEventListener("click", act);
      return button;
    }

    #change(act) {
      act();
      this.#page = 0;
      this.show();
    }

    /** Returns the round trips that match the filter, in the chosen order. */
    listed() {
      const texts = (trade) => [trade.symbol, trade.long ? "long" : "short", trade.reason, trade.exit_reason,
        trade.headline, trade.publisher].join("\n").toLowerCase();
      const found = this.#words ? this.trades.filter((trade) => texts(trade).includes(this.#words)) : [...this.trades];
      if (this.#sort) {
        const { key, sign } = this.#sort;
        found.sort((a, b) => (a[key] === null || b[key] === null ? compare(a[key], b[key])
          : sign * compare(a[key], b[key])));
      }
      return found;
    }

    show() {
      const found = this.listed(), first = this.#page * PER_PAGE;
      const last = Math.min(first + PER_PAGE, found.length);
      this.state.textContent = `${found.length ? first + 1 : 0}–${last} of ${found.length.toLocaleString("en-US")}`;
      this.earlier.disabled = first === 0;
      this.later.disabled = last === found.length;
      this.body.replaceChildren(...found.slice(first, last).map((trade) => this.#row(trade)));
    }

    #row(trade) {
      const row = element("tr");
      const cell = (text, name = "") => row.append(element("td", text, name)) ?? row.lastChild;
      const signed = (value, show) => cell(showSigned(value, show), `n ${value > 0 ? "gain" : value < 0 ? "loss" : ""}`);
      const chart = timeCharts.get(`price-${trade.symbol}`);
      cell("");
      if (chart) row.lastChild.append(this.#button("↑", "Show this round trip in the chart", () => chart.focus(trade)));
      cell(trade.symbol);
      cell(trade.long ? "Long" : "Short");
      signed(trade.pnl, showMoney);
      signed(trade.return, showPercent);
      cell(showMinute(trade.entry));
      cell(trade.exit === null ? "open" : showMinute(trade.exit));
      cell(showDuration(trade.duration), "n");
      cell(trade.qty.toLocaleString("en-US", { maximumSignificantDigits: 12 }), "n");
      cell(showPrice(trade.entry_price), "n");
      cell(trade.exit_price === null ? "–" : showPrice(trade.exit_price), "n");
      cell(showMoney(trade.fees), "n");
      cell(showSigned(trade.funding, showMoney), "n");
      const reasons = [trade.reason, trade.exit_reason !== trade.reason ? trade.exit_reason : ""].filter(Boolean);
      cell(reasons.join(" → "), "why");
      if (trade.headline) row.lastChild.append(" ", element("q", trade.headline), ` ${trade.publisher}`);
      return row;
    }

    /** Downloads the listed round trips. A text that a spreadsheet would compute begins with an apostrophe. */
    download() {
      const text = (value) => {
        const safe = /^[\s]*[=+\-@\t\r]/.test(value) ? `'${value}` : value;
        return `"${safe.replaceAll('"', '""')}"`;
      };
      const time = (seconds) => (seconds === null ? "" : new Date(Math.round(seconds * 1000)).toISOString());
      const lines = ["symbol,side,entry,exit,duration_s,qty,entry_price,exit_price,profit,return_pct,fees,funding," +
        "entry_reason,exit_reason,headline,publisher"];
      for (const trade of this.listed()) {
        lines.push([
          text(trade.symbol), trade.long ? "long" : "short", time(trade.entry), time(trade.exit),
          trade.duration === null ? "" : trade.duration / 1000, trade.qty, trade.entry_price, trade.exit_price ?? "",
          trade.pnl, Number((trade.return * 100).toPrecision(8)), trade.fees, trade.funding, text(trade.reason),
          text(trade.exit_reason), text(trade.headline), text(trade.publisher),
        ].join(","));
      }
      const link = element("a");
      link.href = URL.createObjectURL(new Blob([`${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
      link.download = "round-trips.csv";
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    }
  }

  /** Returns a duration in ms by its two largest units. */
  function showDuration(ms) {
    if (ms === null) return "–";
    const parts = [];
    let rest = Math.round(ms);
    for (const [unit, size] of [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000]]) {
      const count = Math.floor(rest / size);
      rest %= size;
      if (count || parts.length) parts.push(count ? `${count} ${unit}` : "");
    }
    return parts.slice(0, 2).filter(Boolean).join(" ") || "0 s";
  }

  const section = document.getElementById("round-trips");
  if (section) globalThis.roundTripTable = new RoundTrips(section, roundTrips);
}
