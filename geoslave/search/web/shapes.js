// Frames, marks and outlines over a picture, in shares of its side; each line on a dark casing.

const SVG = "http://www.w3.org/2000/svg";

function piece(name, kind, attributes) {
  return ["halo", "line"].map((layer) => {
    const element = document.createElementNS(SVG, name);
    element.setAttribute("class", `${kind} ${layer}`);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  });
}

function corner(x, y) {
  const [halo, line] = piece("circle", "corner", { cx: x, cy: y, r: 0.007 });
  halo.setAttribute("r", 0.011);
  return [halo, line];
}

const path = (corners) => corners.map((corner) => corner.join(",")).join(" ");

export function shapes(svg, { frame, marks = [], found = null, draft = [], cross = null }) {
  const parts = [];
  if (frame) {
    const [low, high] = frame;
    parts.push(...piece("rect", "frame", { x: low, y: low, width: high - low, height: high - low }));
  }
  if (found?.length > 2) parts.push(...piece("polygon", "found", { points: path(found) }));
  for (const mark of marks) {
    parts.push(...(mark.length === 1 ? piece("circle", "mark", { cx: mark[0][0], cy: mark[0][1], r: 0.028 }) : piece("polygon", "mark", { points: path(mark) })));
  }
  if (draft.length > 1) parts.push(...piece("polyline", "draft", { points: path(draft) }));
  for (const [x, y] of draft) parts.push(...corner(x, y));
  if (cross) {
    const [x, y] = cross;
    parts.push(...piece("path", "cross", { d: `M${x - 0.04} ${y}H${x + 0.04}M${x} ${y - 0.04}V${y + 0.04}` }));
  }
  svg.replaceChildren(...parts);
}
