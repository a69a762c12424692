// table: all members that match, sortable; only the rows in sight are in the document.

const ROW = 34;
const sorting = { name: 'error', down: false };
const columns = [
  ['number', '#', (m) => m.number],
  ['status', 'Status', (m) => (m.twin !== null ? `twin of ${m.twin}` : m.status === 'ok' ? 'trained' : show.status(m)), true],
  ['error', 'Error', (m) => show.error(m.error)],
  ['gain', 'Gain', (m) => show.gain(m.gain)],
  ['parameters', 'Parameters', (m) => show.count(m.parameters)],
  ['macs', 'MACs', (m) => show.count(m.macs)],
  ['depth', 'Gen.', (m) => m.depth],
  ['parents', 'Parents', (m) => m.parents.join(', '), true],
  ['rules', 'Edits', (m) => show.edits(m), true],
  ['seconds', 'Own time', (m) => show.seconds(m.seconds)],
  ['lineage_seconds', 'Lineage time', (m) => show.seconds(m.lineage_seconds)],
  ['lineage_examples', 'Lineage examples', (m) => show.count(m.lineage_examples)],
];
let listed = [];

function heads() {
  $('table').tHead.rows[0].replaceChildren(...columns.map(([name, title, , words]) => make('th', {
    scope: 'col', class: words ? 'words' : '', 'aria-sort': name === sorting.name && (sorting.down ? 'descending' : 'ascending'),
  }, make('button', { type: 'button', onclick: () => sortBy(name) }, title))));
}

function sortBy(name) {
  Object.assign(sorting, { name, down: name === sorting.name && !sorting.down });
  const at = columns.findIndex(([column]) => column === name);
  heads();
  sortRows();
  $('table').tHead.rows[0].cells[at].firstChild.focus();
}

// What is not there comes last in either direction.
function sortRows() {
  const keyOf = { rules: show.edits, status: columns[1][2], parents: (m) => (m.parents.length ? m.parents[0] : null) }[sorting.name] || ((m) => m[sorting.name]);
  const sign = sorting.down ? -1 : 1;
  listed = members.filter((m) => m.matches).map((m) => [keyOf(m), m]).sort(([a, m], [b, n]) => {
    if (has(a) !== has(b)) return has(a) ? -1 : 1;
    return (a < b ? -sign : a > b ? sign : 0) || m.number - n.number;
  }).map(([, m]) => m);
  $('table').setAttribute('aria-rowcount', String(listed.length + 1));
  rows();
}

function rows() {
  const list = $('list');
  if (list.hidden) return;
  const from = Math.max(Math.floor(list.scrollTop / ROW) - 10, 0);
  const to = Math.min(from + Math.ceil(list.clientHeight / ROW) + 20, listed.length);
  const space = (count) => make('tr', { class: 'space', 'aria-hidden': 'true' }, make('td', { colspan: columns.length, style: { height: `${count * ROW}px` } }));
  const focused = document.activeElement?.dataset?.number;
  $('table').tBodies[0].replaceChildren(space(from), ...listed.slice(from, to).map((m, i) => row(m, from + i)), space(listed.length - to));
  if (focused) $('table').querySelector(`button[data-number="${focused}"]`)?.focus({ preventScroll: true });
}

function row(m, i) {
  const cells = columns.map(([name, , text, words], k) => {
    if (k === 0) return make('td', {}, make('button', { type: 'button', 'data-number': m.number }, `${m === best ? '\u2605 ' : ''}${m.number}`));
    const kind = name === 'gain' ? quality(m.gain) : name === 'status' && m.failed ? 'bad' : '';
    return make('td', { class: `${words ? 'words ' : ''}${kind}`, title: name === 'rules' && text(m) }, name === 'error' && m.error !== null ? make('span', { class: 'swatch' }, dot(m)) : '', text(m));
  });
  return make('tr', { class: `row ${m === state.chosen ? 'chosen' : ''}`, 'aria-rowindex': i + 2, 'data-number': m.number, onclick: (event) => (event.shiftKey ? compare(m) : choose(m)) }, ...cells);
}

function markRows() {
  for (const tr of $('table').tBodies[0].rows) tr.classList.toggle('chosen', tr.dataset.number === String(state.chosen.number));
}

$('list').addEventListener('scroll', () => requestAnimationFrame(rows));
