// One place after another: show it, take the answer, send it when there is a connection.

import { ApiError, get, pictureUrl, post } from "./api.js";
import { Outbox, waitingHere } from "./outbox.js";
import { createViewer } from "./viewer.js";

const AHEAD = 5; // tasks fetched before they are needed, so that work goes on without a connection
const ZOOMS = { near: "Close", middle: "Around", far: "Far" };
const ANSWERS = {
  yes: ["y", "Yes"],
  no: ["n", "No"],
  unsure: ["u", "Unsure"],
  bad_imagery: ["b", "Bad imagery"],
  offset: ["o", "Offset"],
};
const HELP = [
  ["Y", "yes, there is one"],
  ["N", "no, something else"],
  ["U", "I cannot tell"],
  ["B", "bad imagery: cloud, blur, nothing to see"],
  ["O", "offset: there is one, beside the outline"],
  ["Z", "undo the last answer"],
  ["← ↑ ↓ →", "move"],
  ["+  −  0", "closer, wider, whole picture"],
  ["1 2 3", "close, around, far"],
  ["H", "outline on or off"],
  ["W", "compare two dates"],
  ["C", "write a note"],
  ["M", "search: mark the middle"],
  ["⌫", "search: take the last mark back"],
];

const $ = (id) => document.getElementById(id);
const state = {
  me: null,
  beginning: false,
  outbox: null,
  viewer: null,
  queue: [], // tasks with their pictures, the first is shown
  past: [], // [{task, vote}], for undo
  answered: 0,
  examples: null, // the tutorial's tasks while it runs
  example: 0,
  zoom: "near",
  outline: true,
  swipe: false,
  marks: [],
  filling: null,
  arriving: new Set(), // ids of tasks whose pictures are being fetched
  looked: 0,
};

// ------------------------------------------------------------ beginning

async function begin() {
  if (state.beginning) return undefined;
  state.beginning = true;
  try {
    state.me = await get("/api/me");
  } catch (error) {
    if (error.offline) return away();
    return error.status === 401 ? signedOut(error) : failed(error, begin);
  } finally {
    state.beginning = false;
  }
  navigator.serviceWorker?.register("/offline.js").catch(() => {}); // on https and localhost only
  state.answered = state.me.answered;
  state.outbox = new Outbox(state.me.id, { onChange: showSending, onRefused: refused, ahead: () => (state.filling ? {} : ahead()), onAsked: asked });
  state.viewer ??= createViewer($("viewer"), { onMark: clicked });
  $("to-coordinator").hidden = state.me.role !== "coordinator";
  $("leave").hidden = !state.me.login;
  if (!window.ol) {
    notice("OpenLayers was not fetched when geoslave was set up: pictures cannot be moved or enlarged. Whoever runs this page: python3 scripts/fetch_web.py");
  }
  state.outbox.flush();
  showProgress(state.me.done_share);
  showSending();
  if (state.me.tutorial_done) return work();
  $("welcome").returnValue = "";
  $("welcome").showModal();
}

function welcomed() {
  if (!state.me) return;
  const first = !state.looked && !state.me.tutorial_done;
  if (first || $("welcome").returnValue === "tutorial") startTutorial();
}

// Keys and what they do; where there is no keyboard, the answers and what they mean.
function keysHelp() {
  const touch = window.matchMedia("(hover: none)").matches;
  const names = Object.values(ANSWERS).map(([, name]) => name);
  const told = touch ? HELP.slice(0, names.length).map(([, meaning], n) => [names[n], meaning.replace(/^[\w ]+[,:] /, "")]) : HELP;
  for (const [key, meaning] of told) {
    const term = document.createElement("dt");
    for (const part of touch ? [] : key.split(/\s+/)) {
      const cap = document.createElement("kbd");
      cap.textContent = part;
      term.append(cap, " ");
    }
    if (touch) term.textContent = key;
    const text = document.createElement("dd");
    text.textContent = meaning;
    $("keys").append(term, text);
  }
}

// ------------------------------------------------------------ tutorial

async function startTutorial() {
  let told;
  try {
    told = await get("/api/tutorial");
    state.examples = await Promise.all(told.tasks.map(withPictures));
  } catch (error) {
    return error.status === 401 ? signedOut(error) : failed(error, startTutorial);
  }
  state.example = 0;
  return state.examples.length ? showTask(state.examples[0]) : endTutorial();
}

async function answerExample(answer) {
  const task = state.examples[state.example];
  try {
    const told = await post(`/api/tutorial/${task.task_id}`, { answer, marks: state.marks });
    feedback(told);
  } catch (error) {
    say(error.message);
  }
}

function feedback({ right, expected, why }) {
  $("feedback").classList.toggle("miss", !right);
  $("feedback-title").textContent = right ? "Right." : `Not quite: the answer is ${expected}.`;
  $("feedback-text").textContent = why;
  $("feedback").hidden = false;
  buttons(false);
  $("feedback-next").focus();
}

async function nextExample() {
  $("feedback").hidden = true;
  state.example += 1;
  if (state.example < state.examples.length) return showTask(state.examples[state.example]);
  return endTutorial();
}

async function endTutorial() {
  const had = state.examples.length;
  state.examples = null;
  state.me.tutorial_done = true;
  post("/api/tutorial").catch(() => {}); // shown once more at worst
  await work();
  if (had) say("That was the last example. From here on your answers count.");
}

// ------------------------------------------------------------ the queue

async function work() {
  if (state.queue.length) showTask(state.queue[0]);
  else message("One moment …", "");
  await fill();
}

// People may answer faster than pictures come: fetched again until there is enough, or nothing more.
function fill() {
  state.filling ??= fetchTasks().then((more) => {
    state.filling = null;
    return more && state.queue.length < AHEAD ? fill() : undefined;
  });
  return state.filling;
}

// Whether there may be more.
async function fetchTasks() {
  const wanted = ahead();
  if (!wanted.want || state.outbox.asking) return false;
  try {
    return await receive(await post("/api/tasks/lease", wanted));
  } catch (error) {
    notReceived(error);
    return false;
  }
}

// What is still to be asked for: by itself, or by a vote on its way.
function ahead() {
  const want = state.examples ? 0 : AHEAD - state.queue.length - state.arriving.size;
  if (want <= 0 || state.arriving.size) return {};
  const held = [...state.queue.map((task) => task.task_id), ...state.outbox.waiting().map((vote) => vote.task_id)];
  return { want, held: held.slice(0, 60) };
}

// A vote brought tasks back, or failed to.
async function asked(told) {
  try {
    if (!told || (await receive(told))) await fill();
  } catch (error) {
    notReceived(error);
  }
}

// Whether any of the tasks is new here: what is asked for twice at a time may come twice.
async function receive(told) {
  showProgress(told.done_share);
  const ids = [...state.queue, ...state.past.map((held) => held.task)].map((task) => task.task_id);
  const known = new Set([...ids, ...state.arriving, ...state.outbox.waiting().map((vote) => vote.task_id)]);
  const fresh = told.tasks.filter((task) => !known.has(task.task_id));
  for (const task of fresh) state.arriving.add(task.task_id);
  try {
    for (const task of fresh) {
      state.queue.push(await withPictures(task));
      state.arriving.delete(task.task_id);
      if (state.queue.length === 1) showTask(state.queue[0]);
    }
  } finally {
    for (const task of fresh) state.arriving.delete(task.task_id);
  }
  if (!fresh.length && !state.queue.length && !state.arriving.size) finished();
  return fresh.length > 0;
}

function notReceived(error) {
  if (error.status === 401) signedOut(error);
  else if (!state.queue.length) failed(error, work);
}

async function withPictures(task) {
  const pictures = await Promise.all(task.pictures.map(async (picture) => ({ ...picture, blob: await pictureUrl(picture.url) })));
  return { ...task, pictures };
}

function drop(task) {
  // pictures of the last few stay, for undo
  const old = state.past.length > 10 ? state.past.shift() : null;
  old?.task.pictures.forEach((picture) => URL.revokeObjectURL(picture.blob));
  state.queue = state.queue.filter((held) => held !== task);
}

// ------------------------------------------------------------ showing

function showTask(task) {
  setState("work");
  state.looked += 1;
  state.marks = [];
  state.zoom = zoomsOf(task)[0];
  state.outline = true;
  if (!dates(task).before) state.swipe = false;
  $("feedback").hidden = true;
  $("note").value = "";
  $("note-box").hidden = true;
  $("note-toggle").setAttribute("aria-expanded", "false");
  $("stage").hidden = !state.examples;
  if (state.examples) $("stage").textContent = `Example ${state.example + 1} of ${state.examples.length}`;
  ask(task);
  answerButtons(task);
  zoomButtons(task);
  draw();
  buttons(true);
}

function ask(task) {
  const target = state.me.target;
  const one = /^[aeiou]/i.test(target) ? `an ${target}` : `a ${target}`;
  const search = task.kind === "search";
  $("question").textContent = search ? `Mark every ${target} you see` : `Is there ${one} inside the outline?`;
  const extra = [task.score != null ? `model score ${task.score.toFixed(2)}` : "", task.lat != null ? `${task.lat.toFixed(5)}, ${task.lon.toFixed(5)}` : ""];
  const touch = window.matchMedia("(hover: none)").matches;
  const how = touch ? "Tap each one; tap a mark to take it away." : "Click each one, or move the picture with the arrows and press M. A click on a mark takes it away.";
  const keys = search ? `${task.pictures.some((picture) => picture.outline.length) ? "Inside the frame. " : ""}${how}` : "";
  $("hint").textContent = [keys, ...extra].filter(Boolean).join(" · ");
  $("crosshair").hidden = true;
}

function answerButtons(task) {
  const search = task.kind === "search";
  const names = search ? ["yes", "no", "unsure", "bad_imagery"] : Object.keys(ANSWERS);
  $("buttons").style.setProperty("--answers", names.length);
  $("buttons").classList.toggle("four", names.length === 4);
  $("buttons").replaceChildren(
    ...names.map((name) => {
      const [key, text] = ANSWERS[name];
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.answer = name;
      button.setAttribute("aria-keyshortcuts", key);
      const cap = document.createElement("kbd");
      cap.textContent = key.toUpperCase();
      cap.setAttribute("aria-hidden", "true");
      const words = document.createElement("span");
      words.textContent = search ? { yes: "All marked", no: "Nothing here" }[name] || text : text;
      button.append(cap, words);
      button.addEventListener("click", () => answer(name));
      return button;
    }),
  );
}

function zoomButtons(task) {
  const zooms = zoomsOf(task);
  $("zooms").replaceChildren(
    ...(zooms.length > 1 ? zooms : []).map((zoom, n) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = ZOOMS[zoom];
      button.title = `${ZOOMS[zoom]} (${n + 1})`;
      button.dataset.zoom = zoom;
      button.addEventListener("click", () => setZoom(zoom));
      return button;
    }),
  );
}

function draw(keepView = false) {
  const task = current();
  const { now, before } = dates(task);
  state.viewer.show(now, { url: now.blob, beforeUrl: state.swipe && before ? before.blob : null, keepView });
  state.viewer.setOutline(state.outline);
  state.viewer.setMarks(state.marks.map((mark, index) => ({ ...mark, index })).filter((mark) => mark.picture === now.path));
  for (const button of $("zooms").children) button.setAttribute("aria-pressed", String(button.dataset.zoom === state.zoom));
  $("outline").setAttribute("aria-pressed", String(state.outline));
  $("outline").hidden = task.kind === "search" || !now.outline.length;
  $("swipe").hidden = !before;
  $("swipe").setAttribute("aria-pressed", String(state.swipe));
  $("swiper").hidden = !(state.swipe && before);
  $("date").textContent = state.swipe ? "" : now.date || "";
  $("date-before").textContent = before ? `before: ${before.date || "older"}` : "";
  $("date-now").textContent = `now: ${now.date || "newer"}`;
  $("viewer").setAttribute("aria-label", `Satellite picture, ${ZOOMS[state.zoom].toLowerCase()}${now.date ? `, of ${now.date}` : ""}`);
  for (const id of ["closer", "wider", "whole"]) $(id).hidden = !state.viewer.movable;
  swipeTo(Number($("swipe-at").value) / 100);
}

const current = () => (state.examples ? state.examples[state.example] : state.queue[0]);
const zoomsOf = (task) => Object.keys(ZOOMS).filter((zoom) => task.pictures.some((picture) => picture.zoom === zoom && picture.when === "now"));

function dates(task) {
  const at = task.pictures.filter((picture) => picture.zoom === state.zoom);
  return { now: at.find((picture) => picture.when === "now") || task.pictures[0], before: at.find((picture) => picture.when === "before") };
}

function setZoom(zoom) {
  if (!zoomsOf(current()).includes(zoom)) return;
  state.zoom = zoom;
  draw();
}

function toggleOutline() {
  if ($("outline").hidden) return;
  state.outline = !state.outline;
  draw(true);
}

function toggleSwipe() {
  if ($("swipe").hidden) return;
  state.swipe = !state.swipe;
  draw(true);
  if (state.swipe) $("swipe-at").focus();
}

function swipeTo(share) {
  const on = state.swipe && !$("swiper").hidden;
  state.viewer.setSwipe(on ? share : null);
  $("swiper").querySelector(".line").style.left = `${share * 100}%`;
  $("swiper").style.setProperty("--at", `${share * 100}%`);
}

// ------------------------------------------------------------ marks

function clicked(what) {
  const task = current();
  if (task?.kind !== "search" || !$("feedback").hidden) return;
  if (what.remove !== undefined) state.marks.splice(what.remove, 1);
  else addMark(what.x, what.y);
  draw(true);
  sayMarks();
}

function addMark(x, y) {
  const { now } = dates(current());
  if (x < 0 || y < 0 || x > now.width || y > now.height) return;
  state.marks.push({ x: Math.round(x * 10) / 10, y: Math.round(y * 10) / 10, picture: now.path });
}

function sayMarks() {
  say(state.marks.length === 1 ? "1 mark" : `${state.marks.length} marks`);
}

// ------------------------------------------------------------ answering

function answer(name) {
  const task = current();
  if (!task || document.body.dataset.state !== "work" || !$("feedback").hidden) return;
  if (task.kind === "search" && name === "yes" && !state.marks.length) return say("Mark at least one first, or say that nothing is here (N).");
  if (task.kind === "search" && name !== "yes" && state.marks.length) return say("Take your marks back first (Backspace), or say that all are marked (Y).");
  if (!(name in ANSWERS) || (task.kind === "search" && name === "offset")) return;
  if (state.examples) return answerExample(name);
  const vote = {
    task_id: task.task_id,
    answer: name,
    marks: state.marks,
    note: $("note").value.trim(),
    key: newKey(),
    created_at: new Date().toISOString(),
  };
  state.past.push({ task, vote });
  drop(task);
  state.answered += 1;
  state.outbox.add(vote);
  showProgress();
  say(`${ANSWERS[name][1]}.`);
  if (state.queue.length) showTask(state.queue[0]);
  else message("One moment …", "");
  fill();
}

// crypto.randomUUID exists on https and localhost only
const newKey = () =>
  crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function undo() {
  const last = state.past.at(-1);
  if (!last || state.examples || $("undo").disabled) return;
  $("undo").disabled = true;
  if (!state.outbox.takeBack(last.vote.key)) {
    try {
      await state.outbox.flush();
      if (state.outbox.holds(last.vote.key)) throw new ApiError(0, "That answer is on its way: undo it when you are connected again.");
      await post(`/api/votes/${last.vote.key}/undo`);
    } catch (error) {
      if (error.status === 409) state.past.pop(); // settled meanwhile: it stands, and the one before may be undone
      showProgress();
      return say(error.offline ? "No connection: the last answer can be undone later." : error.message);
    }
  }
  state.past.pop();
  state.answered -= 1;
  state.queue.unshift(last.task);
  showTask(last.task);
  showProgress();
  return say(`Undone: it was ${ANSWERS[last.vote.answer][1].toLowerCase()}.`);
}

function refused(vote, error) {
  state.past = state.past.filter((held) => held.vote.key !== vote.key);
  state.answered -= 1;
  showProgress();
  say(error.status === 409 ? "One of your answers was no longer needed." : `An answer was not taken: ${error.message}`);
}

// ------------------------------------------------------------ what is said

function showProgress(share) {
  if (share !== undefined) {
    $("bar").value = share;
    $("bar").title = `${Math.floor(share * 100)} % of the whole work is done`;
  }
  $("count").textContent = `${state.answered} answered`;
  $("undo").disabled = !state.past.length || Boolean(state.examples);
}

function showSending() {
  const waiting = state.outbox.waiting().length;
  const stuck = waiting && (state.outbox.offline || !navigator.onLine);
  $("sending").classList.toggle("waiting", Boolean(stuck));
  $("sending").textContent = stuck ? `Offline: ${waiting} kept, sent later` : "";
}

function say(text) {
  $("said").textContent = text;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function setState(name) {
  document.body.dataset.state = name;
  $("work").hidden = name !== "work";
  $("message").hidden = name === "work";
}

function message(title, text, action = "", act = null) {
  setState("message");
  $("message-title").textContent = title;
  $("message-text").textContent = text;
  $("message-action").hidden = !action;
  $("message-action").textContent = action;
  $("message-action").onclick = act;
  $("message-undo").hidden = !state.past.length || !act;
}

function finished() {
  const words = state.answered ? `You answered ${state.answered}. ` : "";
  message("Nothing left to look at", `${words}Thank you. There may be more when others have answered, or when new places are added.`, "Look again", work);
}

function failed(error, again) {
  message("That did not work", error.message, "Try again", again);
}

// The page was loaded without a connection: offline.js brought it.
function away() {
  const waiting = waitingHere();
  const kept = waiting ? `${waiting} of your answers ${waiting === 1 ? "is" : "are"} kept here and sent when you are connected again. ` : "";
  message("No connection", `${kept}Places to look at come from the server.`, "Try again", begin);
}

function signedOut(error) {
  message("You are signed out", error.message);
}

function buttons(on) {
  for (const button of $("buttons").children) button.disabled = !on;
  if (on) showProgress();
}

// ------------------------------------------------------------ keys and clicks

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const ACTIONS = {
  z: undo,
  h: toggleOutline,
  w: toggleSwipe,
  c: toggleNote,
  m: markCentre,
  Backspace: takeMark,
  "+": () => state.viewer.zoom(1),
  "=": () => state.viewer.zoom(1),
  "-": () => state.viewer.zoom(-1),
  0: () => state.viewer.fit(),
  1: () => setZoom("near"),
  2: () => setZoom("middle"),
  3: () => setZoom("far"),
  "?": openHelp,
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("welcome").open) return;
  if (event.key === "Escape") return closeNote();
  if (event.target.closest?.("textarea, input")) {
    if (event.target.type !== "range" || event.key.startsWith("Arrow")) return;
  }
  if (document.body.dataset.state !== "work" && event.key.toLowerCase() !== "z") return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const said = Object.keys(ANSWERS).find((name) => ANSWERS[name][0] === key);
  if (said && !event.repeat) answer(said);
  else if (STEPS[key]) pan(...STEPS[key]);
  else if (ACTIONS[key]) ACTIONS[key]();
  else return;
  event.preventDefault();
}

function pan(right, down) {
  state.viewer.pan(right, down);
  $("crosshair").hidden = current().kind !== "search" || !state.viewer.movable; // where M would mark
}

function markCentre() {
  if (current()?.kind !== "search") return;
  const [x, y] = state.viewer.centre();
  clicked({ x, y });
}

function takeMark() {
  if (!state.marks.length) return;
  state.marks.pop();
  draw(true);
  sayMarks();
}

function toggleNote() {
  const opened = $("note-box").hidden;
  $("note-box").hidden = !opened;
  $("note-toggle").setAttribute("aria-expanded", String(opened));
  if (opened) $("note").focus();
}

function closeNote() {
  if (!$("note-box").hidden) toggleNote();
  $("answers").focus();
}

function openHelp() {
  $("again").hidden = !state.me || !state.me.tutorial_done;
  $("start").textContent = state.looked ? "Close" : "Start";
  $("welcome").returnValue = "";
  $("welcome").showModal();
}

async function leave() {
  if (!window.confirm("Sign out on this device? To come back you need a new link from the coordinator.")) return;
  await state.outbox.flush();
  try {
    await post("/api/leave");
    message("You are signed out", "Thank you for your help.");
  } catch (error) {
    say(error.message);
  }
}

document.addEventListener("keydown", pressed);
$("viewer").addEventListener("pointerdown", () => {
  $("crosshair").hidden = true;
});
$("outline").addEventListener("click", toggleOutline);
$("swipe").addEventListener("click", toggleSwipe);
$("swipe-at").addEventListener("input", () => swipeTo(Number($("swipe-at").value) / 100));
$("closer").addEventListener("click", () => state.viewer.zoom(1));
$("wider").addEventListener("click", () => state.viewer.zoom(-1));
$("whole").addEventListener("click", () => state.viewer.fit());
$("undo").addEventListener("click", undo);
$("message-undo").addEventListener("click", undo);
$("note-toggle").addEventListener("click", toggleNote);
$("help").addEventListener("click", openHelp);
$("leave").addEventListener("click", leave);
$("feedback-next").addEventListener("click", nextExample);
$("welcome").addEventListener("close", welcomed);
window.addEventListener("online", () => (state.me ? fill() : begin()));
window.addEventListener("offline", () => state.outbox && showSending());

keysHelp();
begin();
