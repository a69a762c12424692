// layout: where each member stands, in the units of its view; the screen's scale comes later.
//
// Trees are tidy: a subtree is packed against its neighbours by their contours (Reingold and Tilford 1981), and an heir
// keeps its parent's row, so that the line to the best runs straight. Where childless founders are many, they stand
// beside the trees and not between them.

const BUCKETS = 160; // columns of the timeline in which rows are kept apart
const ROWS = 12; // so many childless founders need no block of their own
const PITCH = 0.2; // from column to column of the block, in generations
let block = null; // its first founder, if there is one

function rowsOf(columnOf, founders = members.filter((m) => m.founder)) {
  const shapes = new Map();
  const offsets = new Map();
  for (const m of [...members].reverse()) {
    const end = columnOf(m);
    const start = m.parent ? Math.min(columnOf(m.parent) + 1, end) : end;
    const shape = { start, up: Array(end - start + 1).fill(0), down: Array(end - start + 1).fill(0) };
    const sons = m.children.filter((child) => child.parent === m && child !== m.heir);
    place([...(m.heir ? [m.heir] : []), ...sons], shape, shapes, offsets);
    shapes.set(m, shape);
  }
  place([...founders].sort((a, b) => a.reach - b.reach), { start: 0, up: [], down: [] }, shapes, offsets);
  for (const m of members) m.row = (offsets.get(m) ?? 0) + (m.parent ? m.parent.row : 0);
}

// Trees as above, and left of them a block of those founders that have no child, if they would take more rows than all
// trees; it is as high as these. In the order of their numbers, column by column.
function treeRows() {
  const single = (m) => m.founder && !m.children.length;
  const [alone, kin] = [members.filter(single), members.filter((m) => !single(m))];
  for (const m of members) m.column = m.depth;
  rowsOf((m) => m.depth, kin.filter((m) => m.founder));
  const [low, high] = kin.reduce(([a, b], m) => [Math.min(a, m.row), Math.max(b, m.row)], [0, 0]);
  const rows = Math.max(high - low + 1, ROWS, Math.ceil(Math.sqrt(alone.length)));
  block = alone.length > rows ? alone[0] : null;
  if (!block) return rowsOf((m) => m.depth);
  const columns = Math.ceil(alone.length / rows);
  const each = Math.ceil(alone.length / columns);
  alone.forEach((m, i) => {
    m.column = (Math.floor(i / each) - columns - 1) * PITCH;
    m.row = (low + high) / 2 + (i % each) - (each - 1) / 2;
  });
}

// Places subtrees one after the other as close as they go to row 0, on the nearer side, and joins their contours.
function place(children, whole, shapes, offsets) {
  children.forEach((child, i) => {
    const shape = shapes.get(child);
    shapes.delete(child);
    let [below, above] = [0, 0];
    for (let k = 0; k < shape.up.length; k++) {
      const at = shape.start + k - whole.start;
      if (whole.up[at] === undefined) continue;
      below = Math.max(below, whole.down[at] - shape.up[k] + 1);
      above = Math.max(above, shape.down[k] - whole.up[at] + 1);
    }
    const offset = child.parent && i === 0 && child === child.parent.heir ? 0 : below <= above ? below : -above;
    offsets.set(child, offset);
    join(whole, shape, offset);
  });
}

function join(whole, shape, offset) {
  for (let k = 0; k < shape.up.length; k++) {
    const at = shape.start + k - whole.start;
    whole.up[at] = Math.min(whole.up[at] ?? Infinity, shape.up[k] + offset);
    whole.down[at] = Math.max(whole.down[at] ?? -Infinity, shape.down[k] + offset);
  }
}

const height = (m) => -Math.log10(Math.max(m.error, 1e-4)); // the screen's y grows downwards
const along = (m) => Math.log10(Math.max(m[source.axis], 1e-9)); // along the front's other axis
const worst = best ? height(ranked[ranked.length - 1]) : 0;
const strip = worst - Math.max(best ? height(best) - worst : 1, 0.1) * 0.12; // where those stand that have no error
const last = Math.max(members.length - 1, 1);

const views = {
  tree: {
    title: 'Tree', edges: true, across: null, down: null,
    prepare: treeRows,
    at: (m) => [m.column, m.row], limit: [170, 84], closest: [240, 96],
  },
  time: {
    title: 'Timeline', edges: true, across: { name: 'candidate', log: false }, down: null,
    prepare: () => rowsOf((m) => Math.floor((m.index / last) * BUCKETS)),
    at: (m) => [m.number, m.row], limit: [170, 84], closest: [240, 96],
  },
  progress: {
    title: 'Progress', edges: true, across: { name: 'candidate', log: false }, down: { name: 'error', log: true },
    prepare() {},
    at: (m) => [m.number, m.error === null || m.status !== 'ok' ? strip : height(m)], limit: [400, 4000],
  },
  front: {
    title: 'Pareto front', edges: false, across: { name: source.axis.replaceAll('_', ' '), log: true }, down: { name: 'error', log: true },
    prepare() {},
    at: (m) => (m.status !== 'ok' || m.error === null || !m[source.axis] ? null : [along(m), height(m)]), limit: [4000, 4000],
  },
};

// The range of a view's places, with a little air where all members stand in one line.
function extent(points) {
  const seen = points.filter(has);
  const range = (k) => {
    const [low, high] = seen.reduce(([a, b], p) => [Math.min(a, p[k]), Math.max(b, p[k])], [Infinity, -Infinity]);
    return !seen.length ? [0, 1] : high > low ? [low, high] : [low - 0.5, high + 0.5];
  };
  return [range(0), range(1)];
}

// Round numbers between two ends, about `count` of them: [place on the axis, value].
function ticks(low, high, axis, count) {
  if (axis.log) return logTicks(low, high, count);
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = Math.max([1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw), axis.least ?? 1);
  const found = [];
  for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push([v + 0, v + 0]); // never -0
  return found;
}

function logTicks(low, high, count) {
  for (const digits of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], null]) {
    const found = digits ? decades(low, high, digits) : linear(low, high, count);
    if (found.length >= Math.min(count, 4)) return found;
  }
  return linear(low, high, count);
}

function decades(low, high, digits) {
  const found = [];
  for (let power = Math.floor(low); power <= high; power++) {
    for (const digit of digits) found.push([Math.log10(digit) + power, digit * 10 ** power]);
  }
  return found.filter(([at]) => at >= low && at <= high);
}

function linear(low, high, count) {
  const [from, to] = [10 ** low, 10 ** high];
  const raw = (to - from) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= raw);
  const found = [];
  for (let v = Math.ceil(from / step) * step; v <= to; v += step) found.push([Math.log10(v), v]);
  return found;
}
