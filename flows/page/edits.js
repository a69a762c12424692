// edits: what each family of edits was worth against the no-op control. Its numbers were computed with the report.

const worth = source.payoffs;

function showEdits() {
  const compared = worth.filter((row) => row.compared);
  const intro = [
    "Gain is the error of the no-op control, the parent trained for as long without change, minus the child's.",
    'Each dot is a child that has such a control; the bar is the 95 % interval of the mean (Student\u2019s t, the children of one control as one cluster, since they share its noise; each interval for itself).',
    'A child made by several edits counts for each. What is beyond the scale stands at its edge.',
  ].join(' ');
  $('worth').replaceChildren(
    make('h2', {}, 'Which edits paid off'),
    make('p', { class: 'note' }, intro),
    worth.length ? payoffTable(compared) : make('p', {}, 'No candidate was made by an edit yet.'),
    worth.length && !compared.length ? make('p', {}, 'No parent has a control and another child yet, so nothing can be compared.') : '',
  );
}

function payoffTable(compared) {
  const most = reach(compared);
  const heads = [['Edit', 'words'], ['Children', ''], ['Failed', ''], ['Compared', ''], ['Mean gain', ''], ['95 % interval', ''], ['', 'strip'], ['Best gain', '']];
  const row = (p) => make('tr', {},
    make('td', { class: 'words' }, make('button', { type: 'button', class: 'link', title: 'Show only children of this edit', onclick: () => only(p.rule) }, p.rule)),
    make('td', {}, p.uses.toLocaleString('en')), make('td', { class: p.failures ? 'bad' : '' }, p.failures.toLocaleString('en')), make('td', {}, p.compared.toLocaleString('en')),
    make('td', { class: p.low > 0 ? 'good' : p.high < 0 ? 'bad' : '' }, show.gain(p.mean)),
    make('td', {}, p.low === null ? '\u2013' : `${show.gain(p.low)} to ${show.gain(p.high)}`),
    make('td', { class: 'strip' }, p.compared ? strips(p, most) : null), make('td', {}, show.gain(p.best)));
  return make('table', {}, make('thead', {}, make('tr', {}, ...heads.map(([text, kind]) => make('th', { scope: 'col', class: kind }, kind === 'strip' ? scale(most) : text)))),
    make('tbody', {}, ...worth.map(row)));
}

const childrenOf = (rule) => members.filter((m) => m.rival && m.rules.includes(rule));

// The largest gain or loss that is drawn: that of all means, and of all children but the outermost twentieth.
function reach(compared) {
  const gains = members.filter((m) => m.rival).map((m) => Math.abs(m.gain)).sort((a, b) => a - b);
  return Math.max(gains[Math.floor(0.95 * (gains.length - 1))] || 0, ...compared.map((p) => Math.abs(p.mean))) * 1.1 || 1;
}

const WIDE = 360; // units of a strip; zero is in its middle
const across = (gain, most) => WIDE / 2 + (Math.max(Math.min(gain / most, 1), -1) * (WIDE - 12)) / 2;

function strips(p, most) {
  const mark = (m) => svg('circle', { class: 'child', cx: across(m.gain, most), cy: 13, r: 3, style: { fill: m.colour }, onclick: pick(m) }, svg('title', {}, `${m.number}: ${show.gain(m.gain)}`));
  const kind = p.low > 0 ? 'good' : p.high < 0 ? 'bad' : '';
  return svg('svg', { class: `strip ${kind}`, viewBox: `0 0 ${WIDE} 26`, role: 'img', 'aria-label': `mean ${show.gain(p.mean)}` },
    svg('line', { class: 'zero', x1: WIDE / 2, x2: WIDE / 2, y1: 0, y2: 26 }),
    ...childrenOf(p.rule).map(mark),
    p.low === null ? '' : svg('line', { class: 'interval', x1: across(p.low, most), x2: across(p.high, most), y1: 13, y2: 13 }),
    svg('path', { class: 'mean', d: `M${across(p.mean, most)} 6v14` }));
}

function scale(most) {
  const [step] = ticks(0, most, { log: false, least: 0 }, 3).slice(1);
  const marks = step ? [-step[1], 0, step[1]] : [0];
  return svg('svg', { class: 'strip', viewBox: `0 0 ${WIDE} 26`, 'aria-hidden': 'true' },
    svg('text', { x: 6, y: 17 }, 'worse'), svg('text', { x: WIDE - 6, y: 17, 'text-anchor': 'end' }, 'better'),
    ...marks.map((gain) => svg('text', { x: across(gain, most), y: 17, 'text-anchor': 'middle' }, gain === 0 ? '0' : `${gain > 0 ? '+' : '\u2212'}${Number(Math.abs(gain).toPrecision(3))}`)));
}

function only(rule) {
  $('rule').value = rule;
  filter();
  showTab('tree');
}
