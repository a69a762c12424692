// chart: learning curves, one small chart for each column; several members are drawn into the same one.

const axisWords = (v) => (v !== 0 && Math.abs(v) < 0.001 ? v.toExponential(1) : String(Number(v.toPrecision(3))));

// `told` are pairs of a learning curve and its colour. The first of these columns that is there counts along x.
function curves(told, skipped = []) {
  const [first] = told.map(([curve]) => curve).filter((curve) => Object.keys(curve).length);
  if (!first) return [];
  const across = ['examples', 'step', 'epoch', 'seconds'].find((name) => first[name]);
  const names = Object.keys(first).filter((name) => name !== across && !skipped.includes(name) && first[name].filter(has).length > 1)
    .sort((a, b) => (a === 'learning_rate') - (b === 'learning_rate')); // what it is about comes first
  const lines = (name) => told.filter(([curve]) => curve[name]).map(([curve, colour]) => [pairs(curve, name, across), colour]);
  return names.slice(0, 4).flatMap((name) => section(`Learning curve: ${name.replaceAll('_', ' ')}`, chart(lines(name), across)));
}

function pairs(curve, name, across) {
  const xs = curve[across] || curve[name].map((_, i) => i);
  return xs.map((x, i) => [x, curve[name][i]]).filter(([x, y]) => has(x) && has(y));
}

function chart(lines, across) {
  const [w, h, left, bottom, top] = [336, 112, 52, 20, 8];
  const shown = lines.filter(([points]) => points.length);
  const [[x0, x1], [y0, y1]] = extent(shown.flatMap(([points]) => points));
  const at = ([x, y]) => [left + ((x - x0) / (x1 - x0)) * (w - left - 8), top + ((y1 - y) / (y1 - y0)) * (h - top - bottom)];
  const words = shown.map(([points]) => `from ${show.error(points[0][1])} to ${show.error(points[points.length - 1][1])}`).join(', ');
  return svg('svg', { class: 'chart', viewBox: `0 0 ${w} ${h}`, role: 'img', 'aria-label': words },
    ...[y1, y0].flatMap((y) => [svg('line', { class: 'axis', x1: left, x2: w - 8, y1: at([x0, y])[1], y2: at([x0, y])[1] }),
      svg('text', { x: left - 6, y: at([x0, y])[1] + 4, 'text-anchor': 'end' }, axisWords(y))]),
    svg('text', { x: left, y: h - 4 }, show.count(x0)),
    svg('text', { x: w - 8, y: h - 4, 'text-anchor': 'end' }, `${show.count(x1)}${across ? ` ${across}` : ''}`),
    ...shown.flatMap(([points, colour]) => trace(points.map(at), colour)));
}

function trace(places, colour) {
  const [x, y] = places[places.length - 1];
  return [
    svg('polyline', { points: places.map((place) => place.map((v) => v.toFixed(1)).join(',')).join(' '), style: { stroke: colour } }),
    svg('circle', { cx: x, cy: y, r: 3.5, style: { fill: colour } }),
  ];
}
