// The coordinator's view: progress, conflicts, reviewers, map, and what reviewers may see.
// Names and notes come from people: everything is set as text, never as HTML.

import { get, pictureUrl, post } from "./api.js";
import { createViewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const ANSWERS = { yes: "Yes", no: "No", unsure: "Unsure", bad_imagery: "Bad imagery", offset: "Offset" };
const ZOOMS = { near: "Close", middle: "Around", far: "Far" };
const STATES = {
  open: ["Not begun", "#8a94a0", "circle"],
  begun: ["Begun", "#3f8fd2", "circle"],
  agreed: ["Agreed", "#2f9e5b", "circle"],
  settled: ["Settled", "#176b3a", "square"],
  conflict: ["Conflict", "#d1402f", "triangle"],
  gold: ["Known answer", "#c79a12", "diamond"],
};
const state = { viewer: null, conflicts: [], at: 0, zoom: "near", map: null, shownOnce: false };

async function refresh() {
  try {
    const [facts, told] = await Promise.all([get("/api/coordinator/overview"), get("/api/coordinator/conflicts")]);
    $("main").hidden = false;
    figures(facts);
    strata(facts.strata);
    reviewers(facts);
    state.conflicts = told.conflicts;
    state.at = 0;
    $("n-conflicts").textContent = told.total || "";
    await showConflict();
    await drawMap();
  } catch (error) {
    if (error.status === 401 || error.status === 403) $("main").hidden = true;
    $("notice").textContent = error.message;
    $("notice").hidden = false;
  }
}

// ------------------------------------------------------------ numbers

const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function figures(facts) {
  const done = facts.strata.reduce((sum, row) => sum + row.done, 0);
  const told = [
    ["Decided", `${done} of ${facts.n_tasks}`],
    ["Votes", facts.n_votes],
    ["Agreement", percent(facts.agreement)],
    ["Fleiss' kappa", facts.kappa === null ? "–" : facts.kappa.toFixed(2)],
    ["Conflicts", facts.n_conflicts],
  ];
  $("figures").replaceChildren(
    ...told.map(([name, value]) => {
      const box = element("div");
      box.append(element("dt", name), element("dd", value));
      return box;
    }),
  );
  $("show-score").checked = facts.shown.score;
  $("show-coordinates").checked = facts.shown.coordinates;
  $("inviting").hidden = !facts.login;
}

function table(id, names, rows, empty) {
  const head = element("thead");
  const line = element("tr");
  line.append(...names.map((name) => element("th", name, { scope: "col" })));
  head.append(line);
  const body = element("tbody");
  for (const row of rows) {
    const tr = element("tr");
    for (const cell of row) {
      const td = element("td");
      td.append(cell instanceof Node ? cell : document.createTextNode(String(cell)));
      tr.append(td);
    }
    body.append(tr);
  }
  if (!rows.length) {
    const tr = element("tr");
    tr.append(element("td", empty, { colspan: names.length }));
    body.append(tr);
  }
  $(id).replaceChildren(head, body);
}

function meter(share, words) {
  const box = element("span", "", { class: "meter" });
  const bar = element("progress", "", { max: 1, value: share, "aria-label": words });
  box.append(bar, element("span", words));
  return box;
}

function strata(rows) {
  const told = rows.map((row) => [
    row.stratum,
    meter(row.tasks ? row.done / row.tasks : 0, `${row.done} of ${row.tasks}`),
    row.begun,
    row.conflicts,
    row.votes,
    percent(row.agreement),
  ]);
  table("strata", ["Stratum", "Decided", "Begun", "Conflicts", "Votes", "Agreement"], told, "No tasks yet.");
}

function reviewers(facts) {
  const told = facts.reviewers.map((one) => [
    one.name + (one.role === "reviewer" ? "" : ` (${one.role})`) + (one.disabled ? " - shut out" : ""),
    one.votes,
    one.gold ? meter(one.gold_right / one.gold, `${one.gold_right} of ${one.gold}`) : "–",
    percent(one.agreement),
    one.votes ? percent(one.unsure / one.votes) : "–",
    one.last ? new Date(one.last).toLocaleString() : "–",
    facts.login && one.role !== "imported" && one.id !== "local" ? actions(one) : "",
  ]);
  table("reviewers", ["Name", "Votes", "Known answers right", "Same as others", "Unsure", "Last answer", ""], told, "Nobody yet.");
}

function actions(one) {
  const box = element("span", "", { class: "row tight" });
  const link = element("button", "New link", { type: "button", class: "quiet" });
  link.addEventListener("click", () => invited(post(`/api/coordinator/reviewers/${one.id}/link`), `A new link for ${one.name}. It ends the session they had.`));
  const shut = element("button", one.disabled ? "Let in" : "Shut out", { type: "button", class: "quiet" });
  shut.addEventListener("click", () => attempt(post(`/api/coordinator/reviewers/${one.id}`, { disabled: !one.disabled })));
  box.append(link, shut);
  return box;
}

async function attempt(asked) {
  try {
    await asked;
    await refresh();
  } catch (error) {
    say(error.message);
  }
}

async function invited(asked, words) {
  try {
    const { token, days } = await asked;
    $("link").value = `${window.location.origin}/join#${token}`;
    $("invited-text").textContent = `${words} It works once, within ${days} days. Send it to that person only.`;
    $("invited").hidden = false;
    $("link").select();
  } catch (error) {
    say(error.message);
  }
}

// ------------------------------------------------------------ conflicts

async function showConflict() {
  const one = state.conflicts[state.at];
  $("conflict").hidden = !one;
  $("no-conflicts").hidden = Boolean(one);
  if (!one) return;
  state.viewer ??= createViewer($("viewer"));
  state.zoom = one.pictures.find((picture) => picture.when === "now")?.zoom || "near";
  $("which").textContent = `${state.at + 1} of ${state.conflicts.length} · stratum ${one.stratum} · ${one.kind} · ${one.task_id}`;
  $("votes").replaceChildren(
    ...one.votes.map((vote) => {
      const item = element("li");
      item.append(element("span", ANSWERS[vote.answer], { class: "answer", "data-answer": vote.answer }), element("span", vote.reviewer));
      if (vote.note) item.append(element("q", vote.note));
      return item;
    }),
  );
  $("note").value = "";
  $("later").hidden = state.conflicts.length < 2;
  await showPicture();
}

async function showPicture() {
  const one = state.conflicts[state.at];
  const picture = one.pictures.find((held) => held.zoom === state.zoom && held.when === "now");
  const zooms = one.pictures.filter((held) => held.when === "now").map((held) => held.zoom);
  $("zooms").replaceChildren(
    ...(zooms.length > 1 ? zooms : []).map((zoom) => {
      const button = element("button", ZOOMS[zoom], { type: "button", "aria-pressed": String(zoom === state.zoom) });
      button.addEventListener("click", () => {
        state.zoom = zoom;
        showPicture();
      });
      return button;
    }),
  );
  if (!picture) return;
  $("date").textContent = picture.date || "";
  try {
    state.viewer.show(picture, { url: await pictureUrl(picture.url) });
    const marks = one.votes.flatMap((vote) => vote.marks).filter((mark) => mark.picture === picture.path);
    state.viewer.setMarks(marks);
  } catch (error) {
    say(error.message);
  }
}

function settleButtons() {
  $("settle").replaceChildren(
    ...Object.entries(ANSWERS).map(([name, text]) => {
      const button = element("button", text, { type: "button", "data-answer": name });
      button.addEventListener("click", () => settle(name));
      return button;
    }),
  );
}

async function settle(answer) {
  const one = state.conflicts[state.at];
  try {
    await post(`/api/coordinator/tasks/${one.task_id}/settle`, { answer, note: $("note").value.trim() });
    await refresh();
    say(`Settled: ${ANSWERS[answer].toLowerCase()}.`);
  } catch (error) {
    say(error.message);
  }
}

// ------------------------------------------------------------ map

// Degrees at the map's edge, to be read on light and on dark.
function degrees(textBaseline, textAlign) {
  const ol = window.ol;
  return new ol.style.Text({
    font: "12px system-ui, sans-serif",
    textBaseline,
    textAlign,
    fill: new ol.style.Fill({ color: "#ffffff" }),
    stroke: new ol.style.Stroke({ color: "rgba(10, 14, 20, 0.85)", width: 3 }),
  });
}

async function drawMap() {
  const collection = await get("/api/coordinator/map");
  legend(collection.features);
  if (!window.ol) {
    $("picked").textContent = "The map needs OpenLayers, which was not fetched when geoslave was set up: run  python3 scripts/fetch_web.py";
    return;
  }
  state.map ??= createMap();
  const source = state.map.getLayers().item(0).getSource();
  source.clear();
  const format = new window.ol.format.GeoJSON({ featureProjection: "EPSG:3857" });
  source.addFeatures(format.readFeatures(collection));
  if (!source.isEmpty() && !state.shownOnce) {
    state.map.updateSize();
    state.map.getView().fit(source.getExtent(), { padding: [50, 50, 50, 50], maxZoom: 13 });
    state.shownOnce = true;
  }
  if (source.isEmpty()) $("picked").textContent = "No task has a known place.";
}

function legend(features) {
  const counted = {};
  for (const feature of features) counted[feature.properties.state] = (counted[feature.properties.state] || 0) + 1;
  $("legend").replaceChildren(
    ...Object.entries(STATES)
      .filter(([name]) => counted[name])
      .map(([name, [words, , shape]]) => {
        const item = element("li");
        item.append(element("i", "", { class: `dot ${shape} ${name}`, "aria-hidden": "true" }), `${words}: ${counted[name]}`);
        return item;
      }),
  );
}

function createMap() {
  const ol = window.ol;
  const shape = {
    circle: (fill, stroke) => new ol.style.Circle({ radius: 6, fill, stroke }),
    square: (fill, stroke) => new ol.style.RegularShape({ points: 4, radius: 8, angle: Math.PI / 4, fill, stroke }),
    diamond: (fill, stroke) => new ol.style.RegularShape({ points: 4, radius: 8, fill, stroke }),
    triangle: (fill, stroke) => new ol.style.RegularShape({ points: 3, radius: 9, fill, stroke }),
  };
  const stroke = new ol.style.Stroke({ color: "#ffffff", width: 1.5 });
  const styles = Object.fromEntries(
    Object.entries(STATES).map(([name, [, color, kind]]) => [name, new ol.style.Style({ image: shape[kind](new ol.style.Fill({ color }), stroke) })]),
  );
  const points = new ol.layer.Vector({ source: new ol.source.Vector(), style: (feature) => styles[feature.get("state")] });
  const grid = new ol.layer.Graticule({
    showLabels: true,
    wrapX: false,
    strokeStyle: new ol.style.Stroke({ color: "rgba(128, 136, 146, 0.45)", width: 1 }),
    lonLabelStyle: degrees("bottom", "center"),
    latLabelStyle: degrees("middle", "end"),
  });
  const map = new ol.Map({
    target: "map",
    layers: [points, grid],
    controls: [new ol.control.Zoom(), new ol.control.ScaleLine()],
    view: new ol.View({ center: [0, 0], zoom: 2 }),
  });
  map.on("singleclick", (event) => {
    const feature = map.forEachFeatureAtPixel(event.pixel, (hit) => (hit.get("task_id") ? hit : null), { hitTolerance: 6 });
    if (feature) picked(feature.getProperties());
  });
  return map;
}

async function picked({ task_id: taskId, stratum, state: is, votes }) {
  $("picked").textContent = `${taskId}: ${STATES[is][0].toLowerCase()}, stratum ${stratum}, ${votes} ${votes === 1 ? "vote" : "votes"}`;
  try {
    const told = await get(`/api/coordinator/tasks/${taskId}`);
    const said = told.votes.map((vote) => `${vote.reviewer}: ${ANSWERS[vote.answer].toLowerCase()}`).join(", ");
    if (said) $("picked").textContent += ` (${said})`;
  } catch (error) {
    say(error.message);
  }
}

// ------------------------------------------------------------ the rest

function say(text) {
  $("said").textContent = text;
}

async function show() {
  try {
    await post("/api/coordinator/shown", { score: $("show-score").checked, coordinates: $("show-coordinates").checked });
    say("Kept: it holds for the next tasks that reviewers are given.");
  } catch (error) {
    say(error.message);
  }
}

settleButtons();
$("refresh").addEventListener("click", refresh);
$("later").addEventListener("click", () => {
  state.at = (state.at + 1) % state.conflicts.length;
  showConflict();
});
$("invite-reviewer").addEventListener("click", () => invited(post("/api/coordinator/invitations", { role: "reviewer" }), "A link for one new reviewer."));
$("invite-coordinator").addEventListener("click", () => invited(post("/api/coordinator/invitations", { role: "coordinator" }), "A link for one new coordinator, who will see coordinates and votes."));
$("copy").addEventListener("click", async () => {
  $("link").select();
  await navigator.clipboard?.writeText($("link").value).catch(() => {});
});
$("show-score").addEventListener("change", show);
$("show-coordinates").addEventListener("change", show);
refresh();
