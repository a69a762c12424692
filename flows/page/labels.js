// labels: axes, and the words beside members and edges where there is room for them.

const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif';

function write(text, x, y, colour, align = 'left') {
  pen.textAlign = align;
  pen.lineWidth = 3.5;
  pen.lineJoin = 'round';
  pen.strokeStyle = theme.card;
  pen.strokeText(text, x, y);
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

function drawAxes() {
  const view = views[state.view];
  pen.font = FONT;
  pen.textBaseline = 'middle';
  if (view.down && !best) write('No candidate is trained yet', camera.width / 2, 72, theme.soft, 'center');
  else if (view.down) drawDown(view.down);
  if (view.across && (best || !view.down)) drawAcross(view.across, Boolean(view.down));
  if (!view.across) drawGenerations();
}

function line(x1, y1, x2, y2) {
  pen.strokeStyle = theme.line;
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

function drawDown(axis) {
  const edge = margins();
  const [top, bottom] = [edge.top - 24, camera.height - 34];
  const at = (y) => (camera.y - y) / camera.ky;
  for (const [place, value] of ticks(at(bottom), at(top), axis, camera.height / 90)) {
    const y = camera.y - camera.ky * place;
    if (y < 40 || (state.view === 'progress' && -place < (worst + strip) / 2)) continue;
    line(edge.left - 10, y, camera.width, y);
    write(String(Number(value.toPrecision(4))), edge.left - 16, y, theme.soft, 'right');
  }
  write(axis.name, 14, 24, theme.soft);
  const y = camera.y + camera.ky * strip;
  if (state.view === 'progress' && members.some((m) => m.failed)) write('failed', edge.left - 16, y, theme.soft, 'right');
}

function drawAcross(axis, rules) {
  const edge = margins();
  const y = camera.height - 18;
  const at = (x) => (x - camera.x) / camera.kx;
  const right = camera.width - 96;
  for (const [place, value] of ticks(at(edge.left - 12), at(right), axis, camera.width / 130)) {
    const x = camera.x + camera.kx * place;
    if (rules) line(x, edge.top - 24, x, y - 12);
    else line(x, y - 14, x, y - 10);
    write(axis.log ? show.count(Number(value.toPrecision(6))) : value.toLocaleString('en'), x, y, theme.soft, 'center');
  }
  write(axis.name, camera.width - 14, y, theme.soft, 'right');
}

function drawGenerations() {
  const deepest = members.reduce((depth, m) => Math.max(depth, m.depth), 0);
  const every = [1, 2, 5, 10, 20, 50, 100].find((step) => step * camera.kx > 44) || 200;
  write('generation', 14, 24, theme.soft);
  if (block) write('no children', block.sx - camera.radius, block.sy - camera.radius - 12, theme.soft);
  for (let depth = 0; depth <= deepest; depth += every) {
    const x = camera.x + camera.kx * depth;
    if (x < 90 || x > camera.width - 170) continue;
    line(x, 36, x, camera.height - 8);
    write(String(depth), x, 24, theme.soft, 'center');
  }
}

// Words are written where they meet no other words, the most important members first.
function drawLabels(nodes) {
  const taken = state.view === 'front' ? labelFronts() : [];
  const weight = (m) => (pointed(m) ? 4 : m === best ? 3 : 0) + (state.line.has(m) || state.otherLine.has(m) ? 1 : 0) + (state.view === 'front' && replay.front.has(m) ? 2 : 0);
  const every = spacious();
  const roomy = every || (state.view === 'progress' && members.length < 150);
  const wanted = nodes.filter((m) => m.matches && (every || weight(m) > (roomy ? 0 : 1))).sort((a, b) => weight(b) - weight(a));
  for (const m of wanted.slice(0, 500)) label(m, taken, weight(m), every, nodes);
  if (views[state.view].edges && !views[state.view].down && camera.ky > 20 && !stacked()) for (const m of nodes) edgeLabel(m, taken);
}

// Whether there is room for a word at each member; in a scatter only if there are few, or from near by.
const spacious = () => camera.radius > 6.5 && (!views[state.view].down || members.length < 60 || camera.kx > 2.5 * camera.home[0]);

function label(m, taken, weight, every, nodes) {
  const words = every || weight > 1 ? `${m.number}${m.error !== null ? `  ${show.error(m.error)}` : ''}` : String(m.number);
  const width = pen.measureText(words).width;
  const about = (x, y) => [x - width / 2 - 4, y - 7, x + width / 2 + 4, y + 7];
  let x = Math.max(Math.min(m.sx, camera.width - width / 2 - 8), (views[state.view].down ? margins().left - 8 : 8) + width / 2);
  let y = m.sy + camera.radius + (m === best ? 17 : 12);
  const right = m.sx + camera.radius + 14 + width / 2; // of a member without children, where one stands below it
  if (weight > 1 && !m.children.length && covers(about(x, y), nodes) && !covers(about(right, m.sy), nodes)) [x, y] = [right, m.sy];
  const box = about(x, y);
  if (weight < 4 && crowded(box, taken)) return;
  if (weight < 2 && covers(box, nodes)) return;
  taken.push(box);
  write(words, x, y, weight ? theme.ink : theme.soft, 'center');
  if (stacked()) editBelow(m, y + 15, taken);
}

// Edits stand on the edges where these are long enough, else below the child where the rows are far enough apart.
const stacked = () => views[state.view].edges && !views[state.view].down && camera.ky > 56 && camera.kx < 130;

function editBelow(m, y, taken) {
  if (m.founder) return;
  const words = show.brief(m);
  const width = pen.measureText(words).width;
  const box = [m.sx - width / 2 - 3, y - 7, m.sx + width / 2 + 3, y + 7];
  if (width > camera.kx * 1.25 || crowded(box, taken)) return;
  taken.push(box);
  write(words, m.sx, y, state.line.has(m) ? theme.accent : theme.soft, 'center');
}

// Whether there is a member where the words would stand; their own is above them.
function covers(box, nodes) {
  const r = camera.radius - 2;
  return nodes.some((m) => m.sx + r > box[0] && m.sx - r < box[2] && m.sy + r > box[1] && m.sy - r < box[3]);
}

function crowded(box, taken) {
  return taken.some((other) => box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1]);
}

function edgeLabel(m, taken) {
  if (!m.parent || !m.parent.shown || !m.matches) return;
  const room = m.sx - Math.max(m.parent.sx + 34, m.sx - 150) - camera.radius - 8;
  const words = [m.rules.join(' + '), show.brief(m)].find((text) => text && pen.measureText(text).width <= room);
  if (!words) return;
  const width = pen.measureText(words).width;
  const x = m.sx - camera.radius - 9;
  const box = [x - width, m.sy - 15, x, m.sy - 2];
  if (crowded(box, taken)) return;
  taken.push(box);
  write(words, x, m.sy - 8, state.line.has(m) ? theme.accent : theme.soft, 'right');
}
