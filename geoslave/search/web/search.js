// A page of chips: one key a chip; the next page is drawn from all answers.

import { get, post } from "/web/api.js";
import { openLarge } from "/web/large.js";
import { shapes } from "/web/shapes.js";

const WORDS = { yes: "yes", no: "no", unsure: "unsure" };
const BADGE = { yes: "✓", no: "✕", unsure: "?" };
const CYCLE = [null, "yes", "no", "unsure"];
const KEYS = { y: "yes", n: "no", u: "unsure", 1: "yes", 2: "no", 3: "unsure" };
const HELP = [
  ["Y 1", "yes, the frame holds one"],
  ["N 2", "no"],
  ["U 3", "I cannot tell"],
  ["← ↑ ↓ →", "move"],
  ["E", "enlarge: set a point, draw an outline, see another date"],
  ["A", "all others: no"],
  ["Enter", "next page"],
  ["⌫", "take this chip's answer back"],
  ["Z", "undo"],
];

const $ = (id) => document.getElementById(id);
const state = { target: null, page: null, round: null, training: null, focus: 0, busy: Promise.resolve(), polling: false };

// ------------------------------------------------------------ beginning

async function begin() {
  showKeys();
  try {
    const [target, told] = await Promise.all([get("/api/target"), get("/api/round")]);
    state.target = target;
    document.title = `${target.campaign} · geoslave search`;
    $("campaign").textContent = `${target.campaign}: ${target.title}`;
    $("about").textContent = [target.shows, target.season && `When: ${target.season}`, target.lookalikes.length ? `Easily mistaken for it: ${target.lookalikes.join(", ")}.` : ""].filter(Boolean).join(" ");
    take(told);
    if (told.training?.running) poll();
    focusOn(state.focus);
  } catch (error) {
    notice(error.message);
  }
}

function take({ page, round, training }) {
  state.page = page;
  state.round = round;
  if (training !== undefined) state.training = training;
  state.focus = Math.max(0, page.chips.findIndex((chip) => chip.answer === null));
  drawPage(true);
  drawRound();
}

// ------------------------------------------------------------ the grid

function drawPage(fresh = false) {
  const { page, target } = state;
  const place = page.kind === "place";
  const touch = window.matchMedia("(hover: none)").matches;
  $("question").textContent = place ? `Where in the frame is the ${target.title}?` : page.kind === "model" ? `Is what is outlined a ${target.title}?` : `Which frames hold a ${target.title}?`;
  $("hint").textContent = place ? "Click the site, or enlarge the chip (E) to draw its outline." : page.kind === "model" ? "A yes places it where the outline is; a click says yes, but here." : `Frames are ${target.frame_m.toLocaleString("en")} m wide. ${touch ? "Tap a site: yes, here; again: no; again: unsure." : "Y, N or U answers; a click on a site says yes, here."}`;
  $("kind").hidden = page.kind === "ranking";
  $("kind").textContent = place ? "place the sites" : page.kind === "model" ? "the model asks" : "";
  $("done").hidden = page.kind !== "done";
  $("answers").hidden = page.kind === "done";
  if (fresh) $("grid").replaceChildren(...page.chips.map(chipButton));
  page.chips.forEach(drawChip);
  const open = waiting().length;
  $("rest").hidden = place || open === 0;
  $("rest").querySelector("span").textContent = open === page.chips.length ? "All: no" : `${open} others: no`;
  $("next").disabled = open > 0 && !place;
  $("undo").disabled = !page.undoable;
  document.body.dataset.state = page.kind === "done" ? "done" : "work";
  document.body.dataset.page = `${page.kind}-${page.number}`;
  document.body.dataset.open = String(open);
}

function chipButton(chip, number) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.dataset.chip = chip.chip;
  const picture = document.createElement("img");
  picture.alt = "";
  picture.draggable = false;
  picture.src = `/pictures/${chip.chip}/small`;
  const over = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  over.setAttribute("viewBox", "0 0 1 1");
  over.setAttribute("preserveAspectRatio", "none");
  const badge = document.createElement("span");
  badge.className = "badge";
  badge.setAttribute("aria-hidden", "true");
  button.append(picture, over, badge);
  button.addEventListener("focus", () => focusOn(number, false));
  button.addEventListener("click", (event) => tapped(number, event));
  return button;
}

function drawChip(chip, number) {
  const button = $("grid").children[number];
  const marks = chip.answer === "yes" ? chip.marks : [];
  button.dataset.said = chip.answer ?? "";
  button.tabIndex = number === state.focus ? 0 : -1;
  const said = chip.answer ? `${WORDS[chip.answer]}${marks.length ? `, ${marks.length} marked` : ""}` : "not answered";
  button.setAttribute("aria-label", `Chip ${number + 1} of ${state.page.chips.length}: ${said}`);
  button.querySelector(".badge").textContent = BADGE[chip.answer] ?? "";
  shapes(button.querySelector("svg"), { frame: chip.frame, marks, found: chip.outline });
}

function focusOn(number, move = true) {
  state.focus = Math.min(Math.max(number, 0), state.page.chips.length - 1);
  [...$("grid").children].forEach((button, n) => (button.tabIndex = n === state.focus ? 0 : -1));
  if (move) $("grid").children[state.focus]?.focus();
}

const waiting = () => state.page.chips.filter((chip) => chip.answer === null);
const columns = () => getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
const current = () => state.page?.chips[state.focus];

// ------------------------------------------------------------ answering

// One after another: each answer is on the disk before the next is sent.
let sent = 0; // answers on their way

function sending(count) {
  sent = count;
  document.body.dataset.sending = String(count);
}

window.addEventListener("beforeunload", (event) => {
  if (sent > 0) event.preventDefault();
});

function send(work) {
  state.busy = state.busy.then(work).catch((error) => {
    sending(0);
    notice(error.message);
    $("saving").textContent = "";
    // what is shown may not be what is kept
    return error.offline ? undefined : get("/api/round").then(take).catch(() => {});
  });
  return state.busy;
}

function answer(number, said, at = undefined) {
  const chip = state.page.chips[number];
  if (!chip) return undefined;
  chip.answer = said; // shown at once; what the server says comes after
  if (at) chip.marks = [[at]];
  state.page.undoable = true;
  drawPage();
  sending(sent + 1);
  return send(async () => {
    merge(await post("/api/answer", { chip: chip.chip, answer: said, ...(at ? { at } : {}) }));
    notice("");
    say(said ? `Chip ${number + 1}: ${WORDS[said]}.` : `Chip ${number + 1}: taken back.`);
  });
}

// Answers given meanwhile are on their way: what the server does not know yet stays as it is shown.
function merge(page) {
  sending(sent - 1);
  if (sent > 0) return;
  state.page = page;
  drawPage();
}

function byKey(said) {
  const number = state.focus;
  if (state.page.kind === "place" && said === "yes") return enlarge();
  const done = answer(number, said);
  const after = [...state.page.chips.keys()].slice(number + 1).find((n) => state.page.chips[n].answer === null);
  const before = state.page.chips.findIndex((chip) => chip.answer === null);
  if (after !== undefined || before >= 0) focusOn(after ?? before);
  else focusOn(number);
  return done;
}

// The first tap says yes and where; further taps go round the answers.
function tapped(number, event) {
  focusOn(number, false);
  const chip = state.page.chips[number];
  const box = event.currentTarget.getBoundingClientRect();
  const byHand = event.detail > 0 && box.width > 0; // a key on the button has no place
  const at = byHand ? [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((v) => Math.round(Math.min(Math.max(v, 0), 1) * 1e4) / 1e4) : undefined;
  if (state.page.kind === "place") return at ? answer(number, "yes", at) : enlarge();
  if (!byHand) return enlarge();
  const following = CYCLE[(CYCLE.indexOf(chip.answer) + 1) % CYCLE.length];
  return answer(number, following, following === "yes" ? at : undefined);
}

function rest() {
  if ($("rest").hidden) return undefined;
  return send(async () => {
    const open = waiting().length;
    state.page = await post("/api/rest", { answer: "no" });
    drawPage();
    say(`${open} answered with no. Enter brings the next page.`);
    $("next").focus();
  });
}

function undo() {
  if ($("undo").disabled) return undefined;
  return send(async () => {
    const page = await post("/api/undo");
    state.page = page;
    drawPage();
    const at = page.chips.findIndex((chip) => page.undone.includes(chip.chip));
    if (at >= 0) focusOn(at);
    say(page.undone.length > 1 ? `Undone: ${page.undone.length} answers.` : `Undone: chip ${at + 1}.`);
  });
}

function next(then = null) {
  if (!then && $("next").disabled) return say(`${waiting().length} chips wait for an answer; A answers them with no.`);
  $("next").disabled = true;
  return send(async () => {
    $("saving").textContent = "finding more …";
    document.body.dataset.state = "turning";
    const told = await post("/api/next", { then });
    $("saving").textContent = "";
    notice("");
    take(told);
    window.scrollTo({ top: 0 });
    focusOn(state.focus);
    say(state.page.kind === "done" ? "" : "A new page.");
  });
}

async function enlarge() {
  const number = state.focus;
  const chip = current();
  if (!chip) return;
  await state.busy;
  const result = await openLarge(chip.chip, state.target, notice);
  if (result?.page) {
    state.page = result.page;
    drawPage();
  }
  if (result?.said && !(result.said === "yes" && state.page.chips[number].answer === "yes")) await answer(number, result.said);
  focusOn(number);
}

// ------------------------------------------------------------ the round

function drawRound() {
  const { round, target } = state;
  const left = round.remaining;
  $("found").textContent = round.found.toLocaleString("en");
  $("clicks").textContent = round.clicks.toLocaleString("en");
  const audited = left.audited > 0;
  $("left").textContent = audited ? `about ${left.value.toLocaleString("en")}` : "not known yet";
  $("interval").textContent = audited ? `between ${left.low.toLocaleString("en")} and ${left.high.toLocaleString("en")} (${Math.round(100 * left.level)}\u00a0%\u00a0sure)` : "after the first page";
  drawRange(round.found, left.low, left.high, audited);
  $("advice").textContent = round.advice;
  $("advice").classList.toggle("stop", !round.go_on);
  need("need-sites", round.taught.sites, target.fewest_sites);
  need("need-no", round.taught.negatives, target.fewest_negatives);
  $("to-place").hidden = round.without_place === 0 || state.page.kind === "place";
  $("place").textContent = round.without_place === 1 ? "Place 1 site" : `Place ${round.without_place} sites`;
  drawTraining();
}

function need(id, has, wants) {
  $(id).value = Math.min(has / wants, 1);
  $(`${id}-told`).textContent = has >= wants ? `${has}` : `${has} of ${wants}`;
}

function drawRange(found, low, high, audited) {
  const whole = Math.max(found + high, 1);
  const x = (n) => (300 * n) / whole;
  const parts = [["track", 0, whole], ["bar-found", 0, found], ...(audited ? [["bar-sure", found, found + low], ["bar-maybe", found + low, found + high]] : [])];
  $("range").replaceChildren(
    ...parts.map(([name, from, to]) => {
      const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      bar.setAttribute("class", name);
      bar.setAttribute("x", x(from));
      bar.setAttribute("y", 4);
      bar.setAttribute("width", Math.max(x(to) - x(from), 0));
      bar.setAttribute("height", 26);
      return bar;
    }),
  );
  $("range").setAttribute("aria-label", audited ? `${found} found, ${low} to ${high} more` : `${found} found`);
}

function drawTraining() {
  const { round, training, target } = state;
  const running = Boolean(training?.running);
  $("train").hidden = !target.can_train;
  $("train").disabled = running || !round.ready;
  $("train").title = round.ready ? "" : `Missing: ${round.missing.join("; ")}`;
  $("stop").hidden = !running;
  $("training").hidden = !running;
  const at = training?.progress;
  if (at) $("training").value = at.done / Math.max(at.total, 1);
  else $("training").removeAttribute("value");
  $("model").classList.toggle("wrong", Boolean(!running && training?.failed));
  $("model").textContent = running ? `${at ? at.stage : "reading the chips"} …` : training?.failed ? training.failed : trainedWords(training?.last, round);
  document.body.dataset.training = running ? "running" : training?.failed ? "failed" : training?.last ? "trained" : "none";
}

function trainedWords(last, round) {
  if (!last) return round.ready ? (round.measured ? "" : "With fewer than 25 sites a model is trained, but not measured.") : "A model needs that much at least.";
  const measured = last.held_out_f1 === null ? "not measured" : `F1 ${last.held_out_f1.toFixed(2)} on ${last.held_out_sites} sites put aside`;
  const asks = round.asked && state.page.kind !== "model" ? ` It is unsure of ${round.asked} chips: the next page shows them.` : "";
  return `The last model (${measured}) finds ${last.detections} places.${asks}`;
}

function train() {
  return send(async () => {
    state.training = await post("/api/training");
    drawTraining();
    poll();
  });
}

async function poll() {
  if (state.polling) return;
  state.polling = true;
  while (state.polling) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    try {
      state.training = await get("/api/training");
    } catch (error) {
      notice(error.message);
      break;
    }
    if (!state.training.running) {
      state.round = (await get("/api/round")).round;
      drawRound();
      break;
    }
    drawTraining();
  }
  state.polling = false;
}

// ------------------------------------------------------------ words, keys

function say(text) {
  $("said").textContent = text;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function showKeys() {
  for (const [key, meaning] of HELP) {
    const term = document.createElement("dt");
    for (const part of key.split(/\s+/)) {
      const cap = document.createElement("kbd");
      cap.textContent = part;
      term.append(cap, " ");
    }
    const text = document.createElement("dd");
    text.textContent = meaning;
    $("keys").append(term, text);
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || !state.page) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const onChip = event.target.closest?.(".chip");
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns() };
  if (key in moves) {
    const to = state.focus + moves[key];
    if (to >= 0 && to < state.page.chips.length) focusOn(to);
  } else if (key in KEYS) byKey(KEYS[key]);
  else if (key === "Backspace" || key === "0") answer(state.focus, null);
  else if (key === "e") enlarge();
  else if (key === "a") rest();
  else if (key === "z") undo();
  else if (key === "?") $("helping").showModal();
  else if (key === "Enter" && (onChip || event.target === document.body || event.target.id === "next")) next();
  else return;
  event.preventDefault();
});

for (const button of document.querySelectorAll(".buttons [data-answer]")) button.addEventListener("click", () => byKey(button.dataset.answer));
$("enlarge").addEventListener("click", enlarge);
$("rest").addEventListener("click", rest);
$("undo").addEventListener("click", undo);
$("next").addEventListener("click", () => next());
$("place").addEventListener("click", () => next("place"));
$("train").addEventListener("click", train);
$("stop").addEventListener("click", () => send(async () => { state.training = await post("/api/training/stop"); drawTraining(); }));
$("help").addEventListener("click", () => $("helping").showModal());

begin();
