// main: header, tabs, filters and theme, and the first drawing.

const tabs = [...Object.entries(views).map(([name, view]) => [name, view.title]), ['edits', 'Edits'], ['table', 'Table']];
const paneOf = (name) => ({ edits: 'worth', table: 'list' })[name] || 'graph';
let shown = 'tree';

function header() {
  $('title').textContent = source.title;
  const failed = members.filter((m) => m.failed).length;
  const twins = members.filter((m) => m.twin !== null).length;
  const total = (name) => members.reduce((sum, m) => sum + (m[name] || 0), 0);
  const remarks = [failed ? `${failed.toLocaleString('en')} failed` : null, twins ? `${twins.toLocaleString('en')} twin${twins > 1 ? 's' : ''}` : null];
  const facts = [
    ['Best error', best ? show.error(best.error) : '\u2013', best ? `candidate ${best.number}` : 'none is trained yet'],
    ['Parameters', show.count(best && best.parameters)],
    ['MACs', show.count(best && best.macs)],
    ['Candidates', members.length.toLocaleString('en'), remarks.filter(has).join(', ')],
    ['On the front', front.length.toLocaleString('en'), `error and ${views.front.across.name}`],
    ['Spent', show.seconds(total('seconds')), `${show.count(total('examples'))} examples`],
  ];
  $('facts').replaceChildren(...facts.map(([name, value, note]) => make('div', {}, make('dt', {}, name), make('dd', {}, value, note ? make('small', {}, note) : null))));
  const mark = (place) => make('span', { style: { left: `${place * 100}%` } }, String(Number(errorAt(place).toPrecision(3))) + (place === 1 ? '+' : ''));
  if (best) $('marks').replaceChildren(...(ranked.length > 2 ? [0, 0.5, 1] : [0]).map(mark));
}

function showTab(name) {
  shown = name;
  for (const tab of $('tabs').children) {
    const on = tab.dataset.name === name;
    tab.setAttribute('aria-selected', String(on));
    tab.tabIndex = on ? 0 : -1;
  }
  for (const id of ['graph', 'worth', 'list']) $(id).hidden = id !== paneOf(name);
  document.body.dataset.view = name;
  if (name === 'table') return sortRows();
  if (name === 'edits') return showEdits();
  resize();
  return arrange(name);
}

function buildTabs() {
  $('tabs').replaceChildren(...tabs.map(([name, title]) => make('button', {
    type: 'button', role: 'tab', 'data-name': name, 'aria-controls': paneOf(name), onclick: () => showTab(name),
  }, title)));
  $('tabs').addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const at = tabs.findIndex(([name]) => name === shown);
    showTab(tabs[(at + step + tabs.length) % tabs.length][0]);
    $('tabs').querySelector('[aria-selected="true"]').focus();
  });
}

// A slider's place between the least and the greatest value, in equal ratios.
function limitOf(slider, values) {
  const sorted = values.filter((v) => v > 0).sort((a, b) => a - b);
  const [low, high] = [sorted[0] ?? 1, sorted[sorted.length - 1] ?? 1];
  return Number(slider.value) >= 100 ? Infinity : low * (high / low) ** (Number(slider.value) / 100) * 1.000001;
}

function filter() {
  const [words, rule] = [$('find').value.trim().toLowerCase(), $('rule').value];
  const error = limitOf($('error'), judged.map((m) => m.error));
  const size = limitOf($('size'), judged.map((m) => m.parameters));
  const found = (m) => !words || String(m.number) === words.replace('#', '') || show.edits(m).toLowerCase().includes(words) || show.status(m).includes(words);
  const within = (value, limit) => limit === Infinity || (value !== null && value <= limit);
  for (const m of members) {
    m.matches = found(m) && (!rule || m.rules.includes(rule)) && within(m.error, error) && within(m.parameters, size) && ($('failed').checked || !m.failed);
  }
  const count = members.filter((m) => m.matches).length;
  $('error-value').textContent = error === Infinity ? 'any' : String(Number(error.toPrecision(3)));
  $('size-value').textContent = size === Infinity ? 'any' : show.count(size);
  $('matches').textContent = count === members.length ? '' : `${count.toLocaleString('en')} of ${members.length.toLocaleString('en')}`;
  $('show-all').hidden = count === members.length;
  sortRows();
  redraw();
  return count;
}

function buildFilters() {
  $('rule').append(...rules.map((rule) => make('option', { value: rule }, rule)));
  $('filters').addEventListener('input', filter);
  $('filters').addEventListener('reset', () => requestAnimationFrame(filter));
  $('filters').addEventListener('submit', (event) => {
    event.preventDefault();
    const first = members.find((m) => m.matches);
    if (first && $('find').value) choose(first, true);
  });
}

const darkness = matchMedia('(prefers-color-scheme: dark)');
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  readTheme();
  $('ramp').style.background = `linear-gradient(90deg, ${theme.scale.join(',')})`;
  if (state.other) compare(state.other);
  else if (state.chosen) choose(state.chosen);
  if (shown === 'edits') showEdits();
  rows();
  redraw();
}

function start() {
  setTheme(darkness.matches ? 'dark' : 'light');
  darkness.addEventListener('change', () => setTheme(darkness.matches ? 'dark' : 'light'));
  $('theme').addEventListener('click', () => setTheme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'));
  for (const [id, action] of [['closer', () => zoom(1.5)], ['farther', () => zoom(1 / 1.5)], ['fit', fit], ['best', () => best && choose(best, true)]]) {
    $(id).addEventListener('click', action);
  }
  $('enlarged').addEventListener('click', (event) => event.target.tagName === 'IMG' || $('enlarged').close());
  addEventListener('resize', () => paneOf(shown) !== 'graph' ? rows() : (resize(), camera.moved ? redraw() : fit()));
  header();
  buildTabs();
  buildFilters();
  heads();
  startReplay();
  // `lineage.html#front` opens on that view, `#12` or `#front/12` with that candidate selected, `#12~7` compared with 7.
  const [view, number, other] = (/^#(?:([a-z]+)\/?)?(\d+)?(?:~(\d+))?$/.exec(location.hash) || []).slice(1);
  showTab(tabs.some(([name]) => name === view) ? view : 'tree');
  filter();
  const first = byNumber.get(Number(number ?? NaN)) || best || members[0];
  if (first) choose(first);
  else $('panel').append(make('p', { class: 'note' }, 'The family has no member yet.'));
  if (first && byNumber.has(Number(other ?? NaN))) compare(byNumber.get(Number(other)));
  draw(performance.now());
}

start();
