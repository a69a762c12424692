// compare: two members side by side, their common ancestor, and the edits on the way from one to the other.

function compare(m, bring = false) {
  if (!state.chosen || m === state.chosen) return choose(m, bring);
  state.other = m;
  state.otherLine = new Set(ancestry(m));
  document.body.dataset.compared = String(m.number);
  showComparison(state.chosen, m);
  if (bring) reveal(m);
  markRows();
  redraw();
  $('spoken').textContent = `Candidate ${state.chosen.number} compared with ${m.number}`;
}

function endComparison() {
  state.other = null;
  state.otherLine = new Set();
  delete document.body.dataset.compared;
}

// Whom a member may well be compared with: its parent, its control, the best; and a field for any other.
function partners(m) {
  const likely = [...new Set([m.parent, m.rival, best])].filter((other) => other && other !== m);
  const field = make('input', { type: 'number', min: 0, max: members[members.length - 1].number, placeholder: 'Number', 'aria-label': 'Number of the candidate to compare with' });
  const submit = (event) => {
    event.preventDefault();
    const other = byNumber.get(Number(field.value || NaN));
    field.setCustomValidity(other ? '' : 'There is no candidate of this number.');
    if (other) compare(other, true);
    else field.reportValidity();
  };
  return make('form', { class: 'chips partners', novalidate: true, onsubmit: submit },
    ...likely.map((other) => make('button', { type: 'button', class: 'link', onclick: () => compare(other, true) }, dot(other), `${roleOf(other, m)} ${other.number}`)),
    field, make('button', { type: 'submit', class: 'link' }, 'Compare'), make('span', { class: 'note' }, 'or click one with the shift key held'));
}

const roleOf = (other, m) => (other === m.parent ? 'parent' : other === m.rival ? 'control' : 'best');

async function showComparison(a, b) {
  const both = [a, b];
  const panel = $('panel');
  panel.replaceChildren(...sides(a, b));
  const told = await Promise.all(both.map(details));
  const drawings = await Promise.all(both.map(picture));
  if (state.chosen !== a || state.other !== b) return;
  const portraits = both.map((m, i) => make('figure', {}, make('figcaption', {}, m.number), portrait(m, drawings[i])));
  panel.replaceChildren(...sides(a, b), ...way(a, b),
    ...curves([[told[0].curve, theme.accent], [told[1].curve, theme.second]], ['learning_rate']),
    ...section('Architectures', make('div', { class: 'pair' }, ...portraits)));
  document.body.dataset.panel = `${a.number}~${b.number}`;
}

function sides(a, b) {
  const name = (m, kind) => make('button', { type: 'button', class: `side ${kind}`, onclick: () => choose(m, true) }, String(m.number));
  const facts = [
    ['Error', 'error', show.error, show.gain], ['Parameters', 'parameters', show.count], ['MACs', 'macs', show.count],
    ['Own time', 'seconds', show.seconds], ['Time with ancestors', 'lineage_seconds', show.seconds],
    ['Examples with ancestors', 'lineage_examples', show.count], ['Generation', 'depth', show.count],
  ];
  const row = ([title, key, format, signed]) => make('tr', {}, make('th', { scope: 'row' }, title), make('td', {}, format(a[key])), make('td', {}, format(b[key])),
    make('td', { class: 'note' }, difference(b[key], a[key], signed || format)));
  return [
    make('div', { class: 'sides' }, make('h2', {}, name(a, 'first'), ' and ', name(b, 'second')),
      make('button', { type: 'button', class: 'icon', title: 'End the comparison (Escape)', 'aria-label': 'End the comparison', onclick: () => choose(a) }, '\u00d7')),
    make('table', { class: 'facts' }, make('thead', {}, make('tr', {}, make('th'), ...[a.number, b.number, 'change'].map((text) => make('th', { scope: 'col' }, text)))),
      make('tbody', {}, ...facts.map(row))),
  ];
}

function difference(to, from, format) {
  if (!has(to) || !has(from)) return '';
  if (format === show.gain) return show.gain(to - from);
  return to === from ? '\u00b10' : `${to > from ? '+' : '\u2212'}${format(Math.abs(to - from))}`;
}

// Up from the first to the common ancestor, then down to the second. The line is that of weights: by first parents.
function way(a, b) {
  const [up, down] = [ancestry(a), ancestry(b)];
  let shared = 0;
  while (shared < up.length && up[shared] === down[shared]) shared += 1;
  const [left, right, common] = [up.slice(shared), down.slice(shared), up[shared - 1]];
  const counted = [...tally(a, left), ...tally(b, right)];
  if (!common) return section('Common ancestor', make('p', { class: 'note' }, `None: ${a.number} comes from founder ${up[0].number}, ${b.number} from ${down[0].number}.`), ...counted);
  const count = (m, steps) => `${steps.length === 0 ? 'is' : `${steps.length} generation${steps.length > 1 ? 's' : ''} before`} ${m.number}`;
  const item = (m, kind, words) => make('li', { class: kind }, dot(m), make('span', { class: 'value' }, show.error(m.error)),
    make('button', { type: 'button', onclick: pick(m) }, m.number), make('span', {}, `  ${words}`));
  return [
    ...section('Common ancestor', make('div', { class: 'chips' }, chip(common), make('span', { class: 'note' }, `${count(a, left)}, ${count(b, right)}`))),
    ...section(`Edits from ${a.number} to ${b.number}`, ...counted, make('ol', { class: 'path' },
      ...[...left].reverse().map((m) => item(m, 'first', step('without', m))), item(common, '', 'common ancestor'), ...right.map((m) => item(m, 'second', step('with', m))))),
  ];
}

const step = (word, m) => (m.rules.length ? `${word} ${show.edits(m)}` : show.edits(m));

function tally(m, steps) {
  const counts = new Map();
  for (const rule of steps.flatMap((step) => step.rules)) counts.set(rule, (counts.get(rule) || 0) + 1);
  const words = [...counts].sort((x, y) => y[1] - x[1]).map(([rule, count]) => (count > 1 ? `${count} ${rule}` : rule)).join(', ');
  return words ? [make('p', { class: 'note' }, `Only ${m.number}: ${words}`)] : [];
}

addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && state.other && !$('enlarged').open) choose(state.chosen);
});
