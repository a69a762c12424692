// pointer: mouse, touch and keys on the graph, and the words beside the pointer.

const fingers = new Map();
let dragged = 0;

function nearest(x, y) {
  let [found, least] = [null, Math.max(camera.radius + 4, 9) ** 2];
  for (const m of members) {
    if (!m.shown || !m.matches) continue;
    const distance = (m.sx - x) ** 2 + (m.sy - y) ** 2;
    if (distance < least || (distance === least && m === best)) [found, least] = [m, distance];
  }
  return found;
}

// The child whose edge from its first parent passes under the pointer.
function nearestEdge(x, y) {
  if (!views[state.view].edges || views[state.view].down) return null;
  pen.lineWidth = 9;
  return members.find((m) => {
    if (!m.parent || !m.matches || m.sx < x || m.parent.sx > x) return false;
    if (y < Math.min(m.sy, m.parent.sy) - 5 || y > Math.max(m.sy, m.parent.sy) + 5) return false;
    const path = new Path2D();
    bend(path, m.parent, m);
    pen.save();
    pen.resetTransform();
    const hit = pen.isPointInStroke(path, x, y);
    pen.restore();
    return hit;
  }) || null;
}

function hover(event) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const found = nearest(x, y);
  const edge = found ? null : nearestEdge(x, y);
  canvas.style.cursor = found || edge ? 'pointer' : 'grab';
  if (found !== state.hovered) {
    state.hovered = found;
    redraw();
  }
  tell(found, edge, x, y);
}

function tell(m, edge, x, y) {
  const tip = $('tip');
  tip.hidden = !m && !edge;
  if (tip.hidden) return;
  tip.replaceChildren(...(m ? wordsOf(m) : [make('b', {}, show.edits(edge)), make('span', {}, `${edge.parent.number} \u2192 ${edge.number}`)]));
  tip.style.left = `${Math.max(Math.min(x + 16, camera.width - tip.offsetWidth - 8), 8)}px`;
  tip.style.top = `${y + 18 + tip.offsetHeight > camera.height ? Math.max(y - tip.offsetHeight - 12, 4) : y + 18}px`;
}

function wordsOf(m) {
  const facts = [`error ${show.error(m.error)}`, `${show.count(m.parameters)} parameters`, `${show.count(m.macs)} MACs`];
  const parents = m.from.length ? ` of ${m.from.map((p) => p.number).join(' and ')}` : '';
  return [
    make('b', {}, `${m.number}${m === best ? ' \u00b7 best' : ''}`),
    make('span', {}, m.error === null ? show.status(m) : facts.join(' \u00b7 ')),
    make('span', {}, show.edits(m) + parents),
    m.rival === null ? '' : make('span', {}, `${show.gain(m.gain)} against the no-op control`),
  ];
}

canvas.addEventListener('wheel', (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect();
  const step = event.deltaY * (event.deltaMode === 1 ? 20 : 1);
  zoom(Math.exp(-Math.max(Math.min(step, 240), -240) * 0.0022), event.clientX - box.left, event.clientY - box.top);
}, { passive: false });

canvas.addEventListener('pointerdown', (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, event);
  if (fingers.size === 1) dragged = 0;
});

canvas.addEventListener('pointermove', (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return hover(event);
  $('tip').hidden = true;
  dragged += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
  if (fingers.size === 2) pinch(before, event);
  else if (dragged > 4) {
    canvas.style.cursor = 'grabbing';
    camera.moved = true;
    camera.x += event.clientX - before.clientX;
    camera.y += event.clientY - before.clientY;
  }
  fingers.set(event.pointerId, event);
  return redraw();
});

function pinch(before, after) {
  const other = [...fingers.values()].find((finger) => finger.pointerId !== after.pointerId);
  const span = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
  const box = canvas.getBoundingClientRect();
  zoom(span(after) / Math.max(span(before), 1), (after.clientX + other.clientX) / 2 - box.left, (after.clientY + other.clientY) / 2 - box.top);
}

for (const name of ['pointerup', 'pointercancel']) {
  canvas.addEventListener(name, (event) => {
    const single = fingers.size === 1;
    fingers.delete(event.pointerId);
    if (name === 'pointercancel' || !single || dragged > 4) return;
    hover(event);
    const box = canvas.getBoundingClientRect();
    const found = state.hovered || nearestEdge(event.clientX - box.left, event.clientY - box.top);
    if (found) pick(found)(event);
  });
}

canvas.addEventListener('pointerleave', () => {
  state.hovered = null;
  $('tip').hidden = true;
  redraw();
});
canvas.addEventListener('dblclick', (event) => {
  const box = canvas.getBoundingClientRect();
  if (!state.hovered) zoom(2, event.clientX - box.left, event.clientY - box.top);
});

// The next member above or below in the same generation of the tree; elsewhere the one proposed before or after.
function neighbour(m, step) {
  const tree = state.view === 'tree';
  const peers = members.filter((other) => other.shown && other.matches && (!tree || other.depth === m.depth));
  const order = peers.sort((a, b) => (tree ? a.column - b.column || a.row - b.row : a.number - b.number));
  return order[order.indexOf(m) + step];
}

const keys = {
  ArrowLeft: (m) => m.parent,
  ArrowRight: (m) => m.heir,
  ArrowUp: (m) => neighbour(m, -1),
  ArrowDown: (m) => neighbour(m, 1),
  Home: (m) => ancestry(m)[0],
  b: () => best,
  '+': () => void zoom(1.5),
  '=': () => void zoom(1.5),
  '-': () => void zoom(1 / 1.5),
  0: () => void fit(),
};
canvas.addEventListener('keydown', (event) => {
  const key = keys[event.key] || keys[event.key.toLowerCase()];
  if (!key || event.ctrlKey || event.metaKey || event.altKey || !state.chosen) return;
  event.preventDefault();
  const next = key((event.shiftKey && state.other) || state.chosen);
  if (next) pick(next)(event);
});
