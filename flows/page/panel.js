// panel: what there is to know of the selected member.

function choose(m, bring = false) {
  endComparison();
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
const pick = (m) => (event) => (event.shiftKey ? compare(m, true) : choose(m, true));
const chip = (m) => make('button', { type: 'button', class: 'link', onclick: pick(m) }, dot(m), m.number);
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
    m.rival === null ? '' : make('p', { class: 'gain' }, make('b', { class: quality(m.gain) }, `${Math.abs(m.gain).toFixed(4)} ${m.gain < 0 ? 'more' : 'less'} error`),
      ' than ', chip(m.rival), ', the parent trained as long without change'),
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
    m.twin !== null ? badge(`twin of ${m.twin}`) : null,
  ].filter(has);
}

function body(m, told, drawing) {
  return [
    ...(told.reason ? section('Why it failed', make('p', {}, told.reason)) : []),
    ...(told.edits.length ? section(told.edits.length > 1 ? 'Edits' : 'Edit', ...told.edits.map(edit)) : []),
    ...(m.from.length ? section(m.from.length > 1 ? 'Parents' : 'Parent', ...m.from.map(origin)) : []),
    ...(m.children.length ? section(`Children (${m.children.length})`, make('div', { class: 'chips' }, ...m.children.map(chip))) : []),
    ...(members.length > 1 ? section('Compare with', partners(m)) : []),
    ...curves([[told.curve, theme.accent]]),
    ...architecture(m, drawing),
    ...section('Cost', costs(told.cost), ...shares(m)),
    ...others(told.objectives, told.machine),
    ...(has(told.run) ? section('MLflow run', ...runOf(told.run)) : []),
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

function others(objectives, machine) {
  const rows = Object.entries(objectives).filter(([name]) => !['error', 'parameters', 'macs'].includes(name));
  if (!rows.length) return [];
  return section('Other objectives', make('table', {}, make('tbody', {}, ...rows.map(([name, value]) =>
    make('tr', {}, make('th', { scope: 'row' }, name.replace('_seconds', '').replaceAll('_', ' ')), make('td', {}, name.endsWith('_seconds') ? show.moment(value) : show.count(value)))))),
    ...Object.entries(machine).map(([name, value]) => make('p', { class: 'note' }, `${name.replaceAll('_', ' ')}: ${value}`)));
}

const architecture = (m, drawing) => section('Architecture', portrait(m, drawing));

function portrait(m, drawing) {
  if (!drawing) {
    const why = m.failed ? 'There is none of this candidate.' : 'Left out to keep this page small. The pictures of the best, of its ancestors, of the front and of the newest are here.';
    return make('p', { class: 'note' }, why);
  }
  const address = `data:image/svg+xml,${encodeURIComponent(drawing)}`;
  const enlarge = () => {
    $('enlarged').querySelector('img').src = address;
    $('enlarged').showModal();
  };
  return make('button', { type: 'button', class: 'picture', title: 'Enlarge', onclick: enlarge },
    make('img', { src: address, alt: `Architecture of candidate ${m.number}` }));
}
