// panel: what there is to know of the selected member.

function choose(m, bring = false) {
  state.chosen = m;
  state.line = new Set(ancestry(m));
  state.bestLine = new Set(best ? ancestry(best) : []);
  showPanel(m);
  markRows();
  if (bring) reveal(m);
  redraw();
  $('spoken').textContent = `Candidate ${m.number}, ${m.error === null ? show.status(m) : `error ${show.error(m.error)}`}, ${show.edits(m)}`;
}

const dot = (m) => make('i', { style: { background: m.colour } });
const chip = (m) => make('button', { type: 'button', class: 'link', onclick: () => choose(m, true) }, dot(m), m.number);
const section = (title, ...content) => [make('h3', {}, title), ...content];
const quality = (gain) => (gain > 0 ? 'good' : gain < 0 ? 'bad' : '');

async function showPanel(m) {
  const panel = $('panel');
  panel.replaceChildren(...head(m));
  let told = null;
  try {
    told = [await details(m), await picture(m)];
  } catch {
    if (state.chosen === m) panel.append(make('p', { class: 'note' }, 'This browser cannot unpack the details.'));
  }
  if (!told || state.chosen !== m) return;
  panel.replaceChildren(...head(m), ...body(m, ...told));
  document.body.dataset.panel = String(m.number);
}

function head(m) {
  return [
    make('h2', {}, `Candidate ${m.number}`),
    make('div', { class: 'badges' }, ...badges(m)),
    make('dl', { class: 'tiles' }, tile('Error', show.error(m.error)), tile('Parameters', show.count(m.parameters)), tile('MACs', show.count(m.macs))),
    m.gain === null ? '' : make('p', { class: 'gain' }, make('b', { class: quality(m.gain) }, `${Math.abs(m.gain).toFixed(4)} ${m.gain < 0 ? 'more' : 'less'} error`),
      ' than ', chip(m.twinControl), ', the parent trained as long without change'),
  ];
}

const tile = (name, value) => make('div', { class: 'tile' }, make('dt', {}, name), make('dd', {}, value));

function badges(m) {
  const badge = (text, kind = '') => make('span', { class: `badge ${kind}` }, text);
  return [
    m === best ? badge('\u2605 best', 'best') : null,
    m.status === 'ok' ? badge('trained', 'good') : badge(show.status(m), m.failed ? 'bad' : ''),
    m.front ? badge('on the front') : null,
    m.founder ? badge('founder') : badge(`generation ${m.depth}`),
    m.control ? badge('no-op control') : null,
    has(m.promotes) ? badge(`promotes ${m.promotes}`) : null,
    m.twin !== null ? badge(`duplicate of ${m.twin}`) : null,
  ].filter(has);
}

function body(m, told, drawing) {
  return [
    ...(told.reason ? section('Why it failed', make('p', {}, told.reason)) : []),
    ...(told.edits.length ? section(told.edits.length > 1 ? 'Edits' : 'Edit', ...told.edits.map(edit)) : []),
    ...(m.from.length ? section(m.from.length > 1 ? 'Parents' : 'Parent', ...m.from.map(origin)) : []),
    ...(m.children.length ? section(`Children (${m.children.length})`, make('div', { class: 'chips' }, ...m.children.map(chip))) : []),
    ...curves(told.curve),
    ...architecture(m, drawing),
    ...section('Cost', costs(told.cost)),
    ...others(told.objectives, told.machine),
    ...(m.founder ? [] : section('Ancestry', path(m))),
    make('p', { class: 'note', style: { marginTop: '16px' } }, `Schedule ${show.count(m.fidelity)} examples. Genome ${told.digest.slice(0, 12)}.`),
  ];
}

function origin(parent, rank, all) {
  const role = all.length < 2 ? '' : rank ? 'crossed with' : 'weights of';
  return make('div', { class: 'chips' }, role && make('span', { class: 'note' }, role), chip(parent));
}

function edit(entry) {
  const exact = entry.modes.length > 0;
  const proof = entry.verdict === undefined ? null : make('span', { class: `badge ${!entry.verdict ? 'bad' : exact ? 'good' : ''}` },
    !entry.verdict ? 'broke its promise' : exact ? 'certified exact' : 'disruption: no promise');
  const facts = Object.entries(entry.site).map(([name, value]) => [name, typeof value === 'string' ? value : JSON.stringify(value)]);
  for (const [mode, error] of Object.entries(entry.errors || {})) {
    const measured = has(error) ? `output error ${error ? error.toExponential(1) : 0}` : 'output not finite';
    facts.push([`in ${mode} mode`, `${measured}, ${entry.proved.includes(mode) ? 'proved statically' : 'not proved statically'}`]);
  }
  return make('div', { class: 'edit' }, make('header', {}, make('b', {}, entry.rule), proof),
    make('dl', {}, ...facts.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)])));
}

function costs(cost) {
  const units = [['seconds', 'Time', show.seconds], ['examples', 'Examples', show.count], ['macs', 'MACs', show.count]];
  const row = ([name, title, format]) => make('tr', {}, make('th', { scope: 'row' }, title), make('td', {}, format(cost[name])), make('td', {}, format(cost[`lineage_${name}`])));
  return make('table', {}, make('thead', {}, make('tr', {}, make('th'), make('th', { scope: 'col' }, 'own'), make('th', { scope: 'col' }, 'with ancestors'))),
    make('tbody', {}, ...units.map(row)));
}

function others(objectives, machine) {
  const rows = Object.entries(objectives).filter(([name]) => !['error', 'parameters', 'macs'].includes(name));
  if (!rows.length) return [];
  return section('Other objectives', make('table', {}, make('tbody', {}, ...rows.map(([name, value]) =>
    make('tr', {}, make('th', { scope: 'row' }, name.replace('_seconds', '').replaceAll('_', ' ')), make('td', {}, name.endsWith('_seconds') ? show.moment(value) : show.count(value)))))),
    ...Object.entries(machine).map(([name, value]) => make('p', { class: 'note' }, `${name.replaceAll('_', ' ')}: ${value}`)));
}

function architecture(m, drawing) {
  if (!drawing) {
    const why = m.failed ? 'There is none of this candidate.' : 'Left out to keep this page small. The pictures of the best, of its ancestors, of the front and of the newest are here.';
    return section('Architecture', make('p', { class: 'note' }, why));
  }
  const address = `data:image/svg+xml,${encodeURIComponent(drawing)}`;
  const enlarge = () => {
    $('enlarged').querySelector('img').src = address;
    $('enlarged').showModal();
  };
  return section('Architecture', make('button', { type: 'button', class: 'picture', title: 'Enlarge', onclick: enlarge },
    make('img', { src: address, alt: `Architecture of candidate ${m.number}` })));
}

function path(m) {
  const item = (a) => make('li', {}, dot(a), make('span', { class: 'value' }, show.error(a.error)),
    make('button', { type: 'button', onclick: () => choose(a, true) }, a.number), make('span', {}, `  ${show.edits(a)}`));
  return make('ol', { class: 'path' }, ...ancestry(m).reverse().map(item));
}

// One small chart for each column of the learning curve; the first of these columns that is there counts along x.
function curves(curve) {
  const across = ['examples', 'step', 'epoch', 'seconds'].find((name) => curve[name]);
  const names = Object.keys(curve).filter((name) => name !== across && curve[name].filter(has).length > 1)
    .sort((a, b) => (a === 'learning_rate') - (b === 'learning_rate')); // what it is about comes first
  return names.slice(0, 4).flatMap((name) => section(`Learning curve: ${name.replaceAll('_', ' ')}`, chart(curve[across] || curve[name].map((_, i) => i), curve[name], across)));
}

function chart(xs, ys, across) {
  const [w, h, left, bottom, top] = [336, 112, 44, 20, 8];
  const points = xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => has(x) && has(y));
  const [[x0, x1], [y0, y1]] = extent(points);
  const at = ([x, y]) => [left + ((x - x0) / (x1 - x0)) * (w - left - 8), top + ((y1 - y) / (y1 - y0)) * (h - top - bottom)];
  const end = at(points[points.length - 1]);
  return svg('svg', { class: 'chart', viewBox: `0 0 ${w} ${h}`, role: 'img', 'aria-label': `from ${show.error(points[0][1])} to ${show.error(points[points.length - 1][1])}` },
    ...[y1, y0].flatMap((y) => [svg('line', { class: 'axis', x1: left, x2: w - 8, y1: at([x0, y])[1], y2: at([x0, y])[1] }),
      svg('text', { x: left - 6, y: at([x0, y])[1] + 4, 'text-anchor': 'end' }, String(Number(y.toPrecision(3))))]),
    svg('text', { x: left, y: h - 4 }, show.count(x0)),
    svg('text', { x: w - 8, y: h - 4, 'text-anchor': 'end' }, `${show.count(x1)}${across ? ` ${across}` : ''}`),
    svg('polyline', { points: points.map((p) => at(p).map((v) => v.toFixed(1)).join(',')).join(' '), style: { stroke: theme.accent } }),
    svg('circle', { cx: end[0], cy: end[1], r: 3.5, style: { fill: theme.accent } }));
}
