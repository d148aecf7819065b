// A picture that can be moved and enlarged, with an outline, marks, and a swipe between two dates.
// Coordinates are picture pixels, y down, as the server counts; OpenLayers counts y up.
// Where OpenLayers was not fetched, `plainViewer` shows the same without moving and enlarging.

export function createViewer(element, options = {}) {
  return window.ol ? olViewer(element, options) : plainViewer(element, options);
}

const OUTLINE = "#ffd54a";
const CASING = "rgba(10, 14, 20, 0.85)";
const MARK = "#4fd8ff";

function olViewer(element, { onMark = null } = {}) {
  const ol = window.ol;
  let picture = null;
  let swipe = null;
  const flip = ([x, y]) => [x, picture.height - y];

  const before = new ol.layer.Image({ visible: false });
  const now = new ol.layer.Image();
  const outline = new ol.layer.Vector({ source: new ol.source.Vector(), style: lineStyles() });
  const marks = new ol.layer.Vector({ source: new ol.source.Vector(), style: markStyles() });

  const map = new ol.Map({
    target: element,
    layers: [before, now, outline, marks],
    controls: [],
    keyboardEventTarget: document.createElement("div"), // keys are the page's own
    interactions: ol.interaction.defaults.defaults({ altShiftDragRotate: false, pinchRotate: false, doubleClickZoom: false }),
  });

  // the newer picture is drawn right of the line only
  now.on("prerender", (event) => {
    if (swipe === null) return;
    const context = event.context;
    const [width, height] = map.getSize();
    const at = (x, y) => ol.render.getRenderPixel(event, [x, y]);
    const corners = [at(width * swipe, 0), at(width, 0), at(width, height), at(width * swipe, height)];
    context.save();
    context.beginPath();
    corners.forEach(([x, y], n) => (n ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.clip();
  });
  now.on("postrender", (event) => swipe !== null && event.context.restore());

  map.on("singleclick", (event) => {
    if (!onMark || !picture) return;
    const hit = map.forEachFeatureAtPixel(event.pixel, (feature) => feature.get("mark"), {
      layerFilter: (layer) => layer === marks,
      hitTolerance: 12,
    });
    const [x, y] = flip(event.coordinate);
    if (hit === undefined && !inside(x, y)) return;
    onMark(hit === undefined ? { x, y } : { remove: hit });
  });

  const inside = (x, y) => x >= 0 && y >= 0 && x <= picture.width && y <= picture.height;

  function show(next, { url, beforeUrl = null, keepView = false } = {}) {
    const same = picture && picture.width === next.width && picture.height === next.height;
    picture = next;
    const extent = [0, 0, next.width, next.height];
    const projection = new ol.proj.Projection({ code: "picture", units: "pixels", extent });
    const source = (address) => new ol.source.ImageStatic({ url: address, imageExtent: extent, projection });
    now.setSource(source(url));
    before.setVisible(Boolean(beforeUrl));
    before.setSource(beforeUrl ? source(beforeUrl) : null);
    if (!(keepView && same)) {
      map.setView(
        new ol.View({ projection, extent, showFullExtent: true, constrainOnlyCenter: false, smoothExtentConstraint: true, center: [next.width / 2, next.height / 2], maxResolution: 8, minResolution: 1 / 16 }),
      );
      fit();
    }
    outline.getSource().clear();
    for (const ring of next.outline || []) {
      outline.getSource().addFeature(new ol.Feature(new ol.geom.Polygon([ring.map(flip)])));
    }
  }

  function setMarks(list) {
    marks.getSource().clear();
    list.forEach((mark, n) => {
      const feature = new ol.Feature(new ol.geom.Point(flip([mark.x, mark.y])));
      feature.set("mark", mark.index ?? n);
      feature.set("label", String((mark.index ?? n) + 1));
      marks.getSource().addFeature(feature);
    });
  }

  function fit() {
    map.updateSize();
    if (picture) map.getView().fit([0, 0, picture.width, picture.height], { padding: [4, 4, 4, 4] });
  }

  function pan(right, down) {
    const view = map.getView();
    const step = 80 * view.getResolution();
    const [x, y] = view.getCenter();
    view.setCenter(view.getConstrainedCenter([x + right * step, y - down * step]));
  }

  function zoom(by) {
    const view = map.getView();
    view.animate({ resolution: view.getConstrainedResolution(view.getResolution() / 1.5 ** by), duration: 120 });
  }

  new ResizeObserver(fit).observe(element); // turned, or a note was opened: the whole picture again

  return {
    movable: true,
    show,
    setMarks,
    pan,
    zoom,
    fit,
    centre: () => flip(map.getView().getCenter()),
    setOutline: (on) => outline.setVisible(on),
    setSwipe: (share) => {
      swipe = share;
      map.render();
    },
  };
}

function lineStyles() {
  const ol = window.ol;
  const line = (color, width) => new ol.style.Style({ stroke: new ol.style.Stroke({ color, width }) });
  return [line(CASING, 5), line(OUTLINE, 2.5)];
}

function markStyles() {
  const ol = window.ol;
  return (feature) => [
    new ol.style.Style({
      image: new ol.style.Circle({
        radius: 13,
        fill: new ol.style.Fill({ color: "rgba(10, 14, 20, 0.35)" }),
        stroke: new ol.style.Stroke({ color: CASING, width: 6 }),
      }),
    }),
    new ol.style.Style({
      image: new ol.style.Circle({ radius: 13, stroke: new ol.style.Stroke({ color: MARK, width: 3 }) }),
      text: new ol.style.Text({
        text: feature.get("label"),
        font: "600 12px system-ui, sans-serif",
        fill: new ol.style.Fill({ color: "#ffffff" }),
        stroke: new ol.style.Stroke({ color: CASING, width: 3 }),
      }),
    }),
  ];
}

// Without OpenLayers: the whole picture, its outline and marks; no moving, no enlarging.
function plainViewer(element, { onMark = null } = {}) {
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(SVG, "svg");
  const layers = {};
  for (const name of ["before", "now"]) {
    layers[name] = document.createElementNS(SVG, "image");
    svg.append(layers[name]);
  }
  for (const name of ["outline", "marks"]) {
    layers[name] = document.createElementNS(SVG, "g");
    svg.append(layers[name]);
  }
  svg.classList.add("plain-viewer");
  element.replaceChildren(svg);
  let picture = null;

  svg.addEventListener("click", (event) => {
    if (!onMark || !picture) return;
    const held = event.target.closest("[data-mark]");
    if (held) return onMark({ remove: Number(held.dataset.mark) });
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    if (at.x >= 0 && at.y >= 0 && at.x <= picture.width && at.y <= picture.height) onMark({ x: at.x, y: at.y });
  });

  function draw(group, tag, attributes) {
    const shape = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    group.append(shape);
    return shape;
  }

  return {
    movable: false,
    show(next, { url, beforeUrl = null } = {}) {
      picture = next;
      svg.setAttribute("viewBox", `0 0 ${next.width} ${next.height}`);
      for (const [name, address] of [["before", beforeUrl], ["now", url]]) {
        for (const [key, value] of [["href", address || ""], ["width", next.width], ["height", next.height]]) {
          layers[name].setAttribute(key, value);
        }
      }
      layers.before.toggleAttribute("hidden", !beforeUrl);
      layers.outline.replaceChildren();
      for (const ring of next.outline || []) {
        const points = ring.map((point) => point.join(",")).join(" ");
        draw(layers.outline, "polygon", { points, fill: "none", stroke: CASING, "stroke-width": 5 });
        draw(layers.outline, "polygon", { points, fill: "none", stroke: OUTLINE, "stroke-width": 2.5 });
      }
    },
    setMarks(list) {
      layers.marks.replaceChildren();
      list.forEach((mark, n) => {
        const circle = draw(layers.marks, "circle", { cx: mark.x, cy: mark.y, r: 13, fill: "transparent", stroke: MARK, "stroke-width": 3 });
        circle.dataset.mark = mark.index ?? n;
      });
    },
    pan() {},
    zoom() {},
    fit() {},
    centre: () => (picture ? [picture.width / 2, picture.height / 2] : [0, 0]),
    setOutline: (on) => layers.outline.toggleAttribute("hidden", !on),
    setSwipe(share) {
      const cut = share === null || !picture ? "none" : `inset(0 0 0 ${share * 100}%)`;
      layers.now.style.clipPath = cut;
    },
  };
}
