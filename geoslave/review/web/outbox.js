// Votes wait here until the server has them. One entry of localStorage for each, so that tabs never overwrite
// one another; each vote has a key of its own, by which the server counts it once however often it is sent.

import { post } from "./api.js";

const PREFIX = "geoslave.vote.";
const LONGEST_WAIT = 30000;

// Whether our server refused this vote, for good. Else it stays and is sent again: cut off, busy, signed out, or the
// way was closed and nobody looked at the vote (a proxy, a network's sign-in page, a server that answers elsewhere).
const isFinal = (error) =>
  error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status) && !["", "Forbidden", "Http"].includes(error.kind);

// How many votes wait on this device, whoever gave them.
export const waitingHere = () => Object.keys(localStorage).filter((name) => name.startsWith(PREFIX)).length;

export class Outbox {
  // ahead: what a vote asks for on its way ({want, held}, or {}); onAsked gets the tasks, or null if it failed
  constructor(reviewer, { onChange, onRefused, ahead, onAsked }) {
    this.prefix = `${PREFIX}${reviewer}.`;
    this.onChange = onChange;
    this.onRefused = onRefused;
    this.ahead = ahead;
    this.onAsked = onAsked;
    this.asking = false;
    this.wait = 1000;
    this.running = null;
    this.timer = null;
    this.offline = false;
    window.addEventListener("online", () => this.flush());
    window.addEventListener("storage", () => this.onChange());
  }

  add(vote) {
    localStorage.setItem(this.prefix + vote.key, JSON.stringify(vote));
    this.onChange();
    this.flush();
  }

  waiting() {
    const votes = [];
    for (let n = 0; n < localStorage.length; n += 1) {
      const name = localStorage.key(n);
      if (name.startsWith(this.prefix)) votes.push(JSON.parse(localStorage.getItem(name)));
    }
    return votes.sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
  }

  // Takes back a vote that the server has never been sent; false if it may have it.
  takeBack(key) {
    const vote = this.waiting().find((held) => held.key === key);
    if (!vote || vote.tried) return false;
    this.remove(key);
    return true;
  }

  holds(key) {
    return localStorage.getItem(this.prefix + key) !== null;
  }

  remove(key) {
    localStorage.removeItem(this.prefix + key);
    this.onChange();
  }

  flush() {
    clearTimeout(this.timer);
    this.running ??= this.#send().finally(() => {
      this.running = null;
      this.onChange();
    });
    return this.running;
  }

  async #send() {
    for (let vote = this.waiting()[0]; vote; vote = this.waiting()[0]) {
      const { tried, ...body } = vote;
      const asked = this.ahead();
      let told = null;
      localStorage.setItem(this.prefix + vote.key, JSON.stringify({ ...vote, tried: true }));
      this.asking = asked.want > 0;
      try {
        told = await post("/api/votes", { ...body, ...asked });
        this.remove(vote.key);
        this.wait = 1000;
        this.offline = false;
      } catch (error) {
        if (!isFinal(error)) {
          this.offline = error.status !== 401;
          this.timer = setTimeout(() => this.flush(), error.retryAfter * 1000 || this.wait);
          this.wait = Math.min(this.wait * 2, LONGEST_WAIT);
          return;
        }
        this.remove(vote.key);
        this.onRefused(vote, error);
      } finally {
        const asking = this.asking;
        this.asking = false;
        if (asking) this.onAsked(told);
      }
    }
  }
}
