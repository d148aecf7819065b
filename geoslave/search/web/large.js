// The large view of a chip: set points, draw outlines, look at another date. By mouse, touch or keys.

import { get, post } from "/web/api.js";
import { shapes } from "/web/shapes.js";

const STEP = 0.01;
const $ = (id) => document.getElementById(id);
const view = { chip: null, told: null, marks: [], draft: [], cross: null, tool: "point", scene: "", changed: false, resolve: null, notice: null };

// Resolves when it is closed: {page} where marks were kept, {said} where an answer was given.
export async function openLarge(chip, target, notice) {
  try {
    view.told = await get(`/api/chips/${chip}`);
  } catch (error) {
    notice(error.message);
    return null;
  }
  Object.assign(view, { chip, marks: view.told.marks.map((mark) => [...mark]), draft: [], cross: null, scene: "", changed: false, notice });
  $("large-title").textContent = `Where is the ${target.title}?`;
  $("large").returnValue = "";
  pick("point");
  dates();
  show();
  $("large").showModal();
  $("canvas").focus();
  return new Promise((resolve) => {
    view.resolve = resolve;
  });
}

function pick(tool) {
  view.tool = tool;
  view.draft = [];
  $("tool-point").setAttribute("aria-pressed", String(tool === "point"));
  $("tool-outline").setAttribute("aria-pressed", String(tool === "outline"));
  tell();
  draw();
}

function dates() {
  const others = view.told.others;
  const choices = others.length ? [{ scene: "", date: "this scene" }, ...others] : [];
  $("dates").replaceChildren(
    ...choices.map(({ scene, date }, n) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = date || `scene ${n + 1}`;
      button.dataset.scene = scene;
      button.addEventListener("click", () => other(scene));
      return button;
    }),
  );
}

function other(scene) {
  view.scene = scene;
  show();
}

function turnDate() {
  const scenes = ["", ...view.told.others.map((one) => one.scene)];
  other(scenes[(scenes.indexOf(view.scene) + 1) % scenes.length]);
}

function show() {
  $("large-picture").src = `/pictures/${view.chip}/large${view.scene ? `?scene=${encodeURIComponent(view.scene)}` : ""}`;
  for (const button of $("dates").children) button.setAttribute("aria-pressed", String(button.dataset.scene === view.scene));
  tell();
  draw();
}

function draw() {
  if (!view.told) return;
  const own = !view.scene; // another scene's picture is only about the same ground: nothing is drawn on it
  shapes($("drawing"), { frame: own ? view.told.frame : null, marks: own ? view.marks : [], found: own ? view.told.outline : null, draft: own ? view.draft : [], cross: own ? view.cross : null });
  $("finish").hidden = view.draft.length < 3;
  $("back").disabled = !view.draft.length && !view.marks.length;
}

function tell(text = "") {
  const touch = window.matchMedia("(hover: none)").matches;
  const points = touch ? "Tap each site." : "Click each site, or move the cross with the arrows and press Space.";
  const outline = touch ? "Tap round the site, corner by corner." : "Click round the site, corner by corner (or arrows and Space); Enter closes the outline.";
  const date = "The same ground at another date: go back to draw.";
  $("large-hint").textContent = text || (view.scene ? date : view.tool === "point" ? points : outline);
}

function put(x, y) {
  if (view.scene) return tell("Go back to this scene's own picture to draw on it.");
  const corner = [x, y].map((value) => Math.round(Math.min(Math.max(value, 0), 1) * 1e5) / 1e5);
  if (view.tool === "point") {
    view.marks.push([corner]);
    view.changed = true;
    tell(`${view.marks.length} marked.`);
  } else {
    view.draft.push(corner);
    tell(view.draft.length < 3 ? `${view.draft.length} of at least 3 corners.` : `${view.draft.length} corners; close the outline when it is round the site.`);
  }
  draw();
}

function finish() {
  if (view.draft.length < 3) return tell("An outline needs at least three corners.");
  if (crosses(view.draft)) return tell("The outline crosses itself: take corners away.");
  view.marks.push(view.draft);
  view.draft = [];
  view.changed = true;
  tell(`${view.marks.length} marked.`);
  draw();
}

function back() {
  if (view.draft.length) view.draft.pop();
  else if (view.marks.length) {
    view.marks.pop();
    view.changed = true;
  }
  tell("Taken away.");
  draw();
}

// Whether two sides that do not touch at a corner meet.
function crosses(corners) {
  const sides = corners.map((corner, n) => [corner, corners[(n + 1) % corners.length]]);
  const turn = (a, b, c) => Math.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]));
  const meet = ([a, b], [c, d]) => turn(a, b, c) !== turn(a, b, d) && turn(c, d, a) !== turn(c, d, b);
  return sides.some((side, n) => sides.some((far, m) => m > n + 1 && !(n === 0 && m === sides.length - 1) && meet(side, far)));
}

async function close(said = null) {
  if (view.draft.length && said !== "no") {
    if (view.draft.length < 3) view.draft = [];
    else {
      finish();
      if (view.draft.length) return;
    }
  }
  let page = null;
  if (view.changed && said !== "no") {
    try {
      page = await post(`/api/chips/${view.chip}/marks`, { marks: view.marks });
    } catch (error) {
      tell(error.message);
      return;
    }
  }
  $("large").close();
  const { resolve } = view;
  view.resolve = null;
  resolve?.({ page, said });
}

function at(event) {
  const box = $("canvas").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

$("canvas").addEventListener("click", (event) => {
  if (event.detail === 0) return;
  view.cross = null;
  put(...at(event));
});

$("large").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const step = event.shiftKey ? 5 * STEP : STEP;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const onButton = event.target.closest?.("button");
  if (key in moves) {
    view.cross = (view.cross ?? [0.5, 0.5]).map((value, n) => Math.min(Math.max(value + moves[key][n], 0), 1));
    draw();
  } else if (key === " " && !onButton) put(...(view.cross ?? (view.cross = [0.5, 0.5])));
  else if (key === "Enter" && !onButton) {
    if (view.draft.length) finish();
    else close();
  } else if (key === "Backspace") back();
  else if (key === "1") pick("point");
  else if (key === "2") pick("outline");
  else if (key === "w" && view.told.others.length) turnDate();
  else if (key === "n") close("no");
  else if (key === "u") close("unsure");
  else if (key === "y") close("yes");
  else if (key === "e") close();
  else return;
  event.preventDefault();
});

$("large").addEventListener("cancel", (event) => {
  event.preventDefault();
  close();
});
$("tool-point").addEventListener("click", () => pick("point"));
$("tool-outline").addEventListener("click", () => pick("outline"));
$("finish").addEventListener("click", finish);
$("back").addEventListener("click", back);
$("large-close").addEventListener("click", () => close());
$("large-yes").addEventListener("click", () => close(view.marks.length || view.draft.length > 2 ? null : "yes"));
$("large-no").addEventListener("click", () => close("no"));
