// A job on the server that folds a run again: its progress, a button that cancels it, its error.
import { element, percent, untrusted } from "./format.js";
import { errorText, getJson, postJson } from "./requests.js";

const POLL = 400; // ms

export class Replay {
  #job = "";
  #attempt = 0;

  /** Shows progress and errors in `box`. */
  constructor(box, run, what) {
    this.run = run;
    this.what = what;
    this.bar = element("progress", { max: "1" });
    this.text = element("span", { role: "status" });
    this.button = element("button", { type: "button", text: "Cancel" });
    this.line = element("p", { class: "job" }, this.bar, this.text, this.button);
    this.error = element("p", { class: "error", role: "alert" });
    this.line.hidden = this.error.hidden = true;
    this.button.addEventListener("click", () => this.cancel());
    box.replaceChildren(this.line, this.error);
  }

  get running() {
    return !this.line.hidden;
  }

  /** Starts the job of `body` and resolves with its result; null if it failed or was cancelled. */
  async start(body) {
    this.#attempt += 1;
    const attempt = this.#attempt;
    this.error.hidden = true;
    this.line.hidden = false;
    this.button.disabled = false;
    this.#show({ waiting: true, share: 0 });
    try {
      let job = await postJson(`api/runs/${encodeURIComponent(this.run)}/replay`, body);
      this.#job = job.job;
      while (!job.done && attempt === this.#attempt) {
        this.#show(job);
        await new Promise((resolve) => setTimeout(resolve, POLL));
        job = await getJson(`api/replays/${job.job}`);
      }
      if (attempt !== this.#attempt) return null;
      if (job.error) throw new Error(errorText(job));
      return job.result;
    } catch (error) {
      this.error.replaceChildren(untrusted(error.message));
      this.error.hidden = false;
      return null;
    } finally {
      if (attempt === this.#attempt) {
        this.#job = "";
        this.line.hidden = true;
      }
    }
  }

  #show({ waiting, share }) {
    if (share) this.bar.value = share;
    else this.bar.removeAttribute("value");
    const text = waiting ? `${this.what}: waiting …` : `${this.what} … ${share ? percent(share, 0) : ""}`;
    if (this.text.textContent !== text) this.text.textContent = text;
  }

  async cancel({ keepalive = false } = {}) {
    this.button.disabled = true;
    if (!this.#job) return;
    try {
      await postJson(`api/replays/${this.#job}/cancel`, {}, { keepalive });
    } catch {
      // The next poll shows what has become of the job
    }
  }
}
