// costs: what a member cost, itself and by each of its ancestors: nothing that was inherited is free.

function costs(cost) {
  const units = [['seconds', 'Time', show.seconds], ['examples', 'Examples', show.count], ['train_macs', 'MACs of training', show.count]];
  const row = ([name, title, format]) => make('tr', {}, make('th', { scope: 'row' }, title), make('td', {}, format(cost[name])), make('td', {}, format(cost[`lineage_${name}`])));
  return make('table', {}, make('thead', {}, make('tr', {}, make('th'), make('th', { scope: 'col' }, 'own'), make('th', { scope: 'col' }, 'with ancestors'))),
    make('tbody', {}, ...units.map(row)));
}

// The time with ancestors, divided: a part for each ancestor in the line of weights, oldest first, then what is of none
// of them: of second parents, whose lines are not shown here, of a predecessor's search, of the one that a twin repeats.
function shares(m) {
  const line = ancestry(m);
  const own = line.reduce((sum, a) => sum + (a.seconds || 0), 0);
  const others = Math.max((m.lineage_seconds || 0) - own, 0);
  if (line.length < 2 || !own) return [];
  const part = (seconds, words, extra = {}) => make('i', { ...extra, title: words, style: { flexGrow: seconds, ...extra.style } });
  const words = (a) => `${a.number}: ${show.seconds(a.seconds)}, ${show.count(a.examples)} examples, ${percent(a.seconds, own + others)}`;
  const dearest = line.reduce((a, b) => (b.seconds > a.seconds ? b : a));
  const beside = others > own / 1000 ? `, ${percent(others, own + others)} by others` : '';
  return [
    make('div', { class: 'shares' }, ...line.map((a) => part(a.seconds || 0, words(a), { style: { background: a.colour }, onclick: pick(a) })),
      beside ? part(others, `second parents, a predecessor's search, or whom a twin repeats: ${show.seconds(others)}`, { class: 'others' }) : null),
    make('p', { class: 'note' }, `Time by ancestor, oldest first: own share ${percent(m.seconds, own + others)}, most for ${dearest.number} (${percent(dearest.seconds, own + others)})${beside}.`),
  ];
}

const percent = (part, whole) => `${Number((100 * (part || 0) / whole).toPrecision(2))} %`;

// The line from the member up to its founder, with what each step brought and took.
function path(m) {
  const line = ancestry(m).reverse();
  const most = Math.max(...line.map((a) => a.seconds || 0), 1e-9);
  const item = (a) => make('li', {}, dot(a), make('span', { class: 'value' }, show.error(a.error)),
    make('button', { type: 'button', onclick: pick(a) }, a.number), make('span', {}, `  ${show.edits(a)}`),
    make('span', { class: 'spent', title: `${show.count(a.examples)} examples` }, make('i', { style: { flexGrow: (a.seconds || 0) / most } }), make('em', {}, show.seconds(a.seconds)), make('b', { style: { flexGrow: 1 - (a.seconds || 0) / most } })));
  return make('ol', { class: 'path' }, ...line.map(item));
}
