// graph: draws the current view on the canvas. Sizes are those of the screen, so that thousands stay readable.

const canvas = $('canvas');
const pen = canvas.getContext('2d');
const camera = { x: 0, y: 0, kx: 1, ky: 1, width: 1, height: 1, radius: 4 };
const state = { view: 'tree', chosen: null, other: null, hovered: null, line: new Set(), otherLine: new Set(), bestLine: new Set(), moved: null };
const calm = matchMedia('(prefers-reduced-motion: reduce)');
let waiting = false;

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame((now) => {
    waiting = false;
    draw(now);
  });
}

function resize() {
  const { width, height } = canvas.getBoundingClientRect();
  if (!width) return;
  const ratio = devicePixelRatio || 1;
  Object.assign(camera, { width, height: height - $('foot').offsetHeight });
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
}

function arrange(name) {
  const before = state.moved === null && members.length <= 4000 && !calm.matches && state.ready;
  if (before) for (const m of members) m.was = m.shown ? [m.sx, m.sy] : null;
  state.view = name;
  views[name].prepare();
  for (const m of members) m.place = views[name].at(m);
  fit();
  state.moved = before ? performance.now() : null;
}

function margins() {
  const view = views[state.view];
  return { left: view.down ? 62 : 34, right: 40, top: 54, bottom: view.down ? 66 : view.across ? 46 : 48 };
}

function fit() {
  const [[left, right], [top, bottom]] = extent(members.map((m) => m.place));
  const edge = margins();
  const [w, h] = [camera.width - edge.left - edge.right, camera.height - edge.top - edge.bottom];
  const [mx, my] = views[state.view].limit;
  camera.kx = Math.max(Math.min(w / (right - left), mx), 1e-6);
  camera.ky = Math.max(Math.min(h / (bottom - top), my), 1e-6);
  camera.x = edge.left + w / 2 - (camera.kx * (left + right)) / 2;
  camera.y = edge.top + h / 2 - (camera.ky * (top + bottom)) / 2;
  camera.home = [camera.kx, camera.ky];
  camera.moved = false;
  redraw();
}

function zoom(factor, x = camera.width / 2, y = camera.height / 2) {
  const most = views[state.view].closest || camera.home.map((k) => k * 400);
  const [fx, fy] = [camera.kx, camera.ky].map((k, i) => {
    const [least, greatest] = [camera.home[i] * 0.4, Math.max(most[i], camera.home[i])];
    return Math.min(Math.max(factor, least / k), greatest / k);
  });
  camera.x = x - (x - camera.x) * fx;
  camera.y = y - (y - camera.y) * fy;
  camera.kx *= fx;
  camera.ky *= fy;
  camera.moved = true;
  redraw();
}

// Brings a member into sight, if it is not.
function reveal(m) {
  if (!m.place) return;
  const [x, y] = [camera.x + camera.kx * m.place[0], camera.y + camera.ky * m.place[1]];
  if (x < 40 || x > camera.width - 40) camera.x += camera.width / 2 - x;
  if (y < 60 || y > camera.height - 40) camera.y += camera.height / 2 - y;
  redraw();
}

function project(now) {
  const t = state.moved === null ? 1 : Math.min((now - state.moved) / 450, 1);
  const eased = 1 - (1 - t) ** 3;
  for (const m of members) {
    m.shown = m.place !== null && (state.view !== 'front' || m.index < replay.until);
    if (!m.shown) continue;
    [m.sx, m.sy] = [camera.x + camera.kx * m.place[0], camera.y + camera.ky * m.place[1]];
    if (t < 1 && m.was) [m.sx, m.sy] = [m.was[0] + (m.sx - m.was[0]) * eased, m.was[1] + (m.sy - m.was[1]) * eased];
  }
  if (t < 1) redraw();
  else state.moved = null;
}

function draw(now) {
  if (!camera.home) return; // the table was shown first
  project(now);
  camera.radius = radiusOf();
  pen.clearRect(0, 0, canvas.width, canvas.height);
  drawAxes();
  if (views[state.view].edges) drawEdges();
  if (state.view === 'front') drawFront();
  drawLines();
  const nodes = members.filter((m) => m.shown && m.sx > -20 && m.sx < camera.width + 20 && m.sy > -20 && m.sy < camera.height + 40);
  for (const m of nodes) if (!marked(m)) drawNode(m);
  for (const m of nodes) if (marked(m)) drawNode(m);
  drawLabels(nodes);
  if (!state.ready) document.body.dataset.ready = String(members.length);
  state.ready = true;
}

const marked = (m) => state.line.has(m) || state.otherLine.has(m) || m === best || m === state.hovered || m === state.chosen;

function radiusOf() {
  const view = views[state.view];
  if (view.across) {
    const room = Math.sqrt((camera.width * camera.height) / Math.max(members.length, 1)) * 0.1;
    return Math.min(Math.max(room, 2.3) * Math.sqrt(Math.max(camera.kx / camera.home[0], 1)), 8);
  }
  return Math.min(Math.max(Math.min(camera.kx * 0.36, camera.ky * 0.34), 2.1), 9);
}

function bend(path, a, b) {
  path.moveTo(a.sx, a.sy);
  if (views[state.view].down) return path.lineTo(b.sx, b.sy);
  const turn = Math.min((b.sx - a.sx) * 0.55, 90);
  return path.bezierCurveTo(a.sx + turn, a.sy, Math.min(a.sx + turn * 0.6, b.sx), b.sy, Math.min(a.sx + turn * 1.8, b.sx), b.sy), path.lineTo(b.sx, b.sy);
}

function drawEdges() {
  const [plain, dim, second] = [new Path2D(), new Path2D(), new Path2D()];
  const scatter = views[state.view].down;
  for (const m of members) {
    if (m.parent && inSight(m.parent, m) && !(scatter && m.failed)) bend(m.matches ? plain : dim, m.parent, m);
    if (members.length <= 600) for (const p of m.from.slice(1)) if (p !== m.parent && inSight(p, m)) bend(second, p, m);
  }
  pen.strokeStyle = theme.edge;
  stroke(dim, 1, 0.22);
  stroke(plain, camera.radius > 5 ? 1.4 : 1, scatter ? 0.35 : 0.8);
  pen.setLineDash([3, 4]);
  stroke(second, 1, scatter ? 0.2 : 0.6);
  pen.setLineDash([]);
}

function inSight(a, b) {
  return Math.max(a.sx, b.sx) > 0 && Math.min(a.sx, b.sx) < camera.width && Math.max(a.sy, b.sy) > 0 && Math.min(a.sy, b.sy) < camera.height;
}

function stroke(path, width, alpha) {
  pen.lineWidth = width;
  pen.globalAlpha = alpha;
  pen.stroke(path);
  pen.globalAlpha = 1;
}

// The ancestry of the selected member, its second parents, and that of whom it is compared with, else that of the best.
function drawLines() {
  const [chosen, top, second] = [new Path2D(), new Path2D(), new Path2D()];
  const beside = state.other ? state.otherLine : state.bestLine;
  for (const m of state.line) {
    if (m.parent && m.shown && m.parent.shown) bend(chosen, m.parent, m);
    for (const p of m.from.slice(1)) if (p.shown && m.shown && p !== m.parent) bend(second, p, m);
  }
  for (const m of beside) if (m.parent && m.shown && m.parent.shown && !state.line.has(m)) bend(top, m.parent, m);
  pen.lineJoin = 'round';
  strokeLine(top, state.other ? theme.second : theme.star);
  strokeLine(chosen, theme.accent);
  pen.setLineDash([3, 4]);
  stroke(second, 1.3, state.view === 'front' ? 0.3 : 0.65);
  pen.setLineDash([]);
}

// Where members stand so close that they would cover the line between them, it is drawn around them.
const cased = () => state.view === 'tree' && camera.kx < camera.radius * 4;

function strokeLine(path, colour) {
  pen.strokeStyle = colour;
  if (!cased()) return stroke(path, state.view === 'front' ? 1.4 : 3, state.view === 'front' ? 0.5 : 1);
  stroke(path, camera.radius * 2 + 7, 1);
  pen.strokeStyle = theme.wash;
  return stroke(path, camera.radius * 2 + 4, 1);
}
