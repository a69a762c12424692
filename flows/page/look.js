// look: colours, numbers in words, and making elements. Text from the data only ever becomes a text node.

const scales = {
  light: ['#123a6b', '#1b6a8c', '#3d9a94', '#86c29a', '#bdd190', '#dfc878'],
  dark: ['#fff2a8', '#a5e38a', '#46c2a0', '#2f93a8', '#4668a8', '#5a54a0'],
};
const SVG = 'http://www.w3.org/2000/svg';
let theme = {};

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const names = ['card', 'ink', 'soft', 'faint', 'line', 'edge', 'accent', 'second', 'star', 'wash'];
  theme = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  theme.scale = scales[document.documentElement.dataset.theme];
  for (const m of members) m.colour = colourOf(m);
}

const colourOf = (m) => (m.status === 'ok' && m.error !== null ? ramp(standing(m.error)) : theme.faint);

// The place of an error on the colour scale, from 0 for the least to 1: half by its rank and half by its logarithm, so that
// neither a crowd of equals nor a few outliers take all the colours. The legend says which errors the colours stand for.
function standing(error) {
  const [low, high] = [ranked[0].error, ranked[Math.floor((ranked.length - 1) * 0.97)].error].map((e) => Math.log(Math.max(e, 1e-4)));
  const share = high > low ? Math.min((Math.log(Math.max(error, 1e-4)) - low) / (high - low), 1) : 0;
  let [from, to] = [0, ranked.length - 1];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (ranked[middle].error < error) from = middle + 1;
    else to = middle;
  }
  return Math.max((share + Math.min(from / Math.max((ranked.length - 1) * 0.97, 1), 1)) / 2, 0);
}

// The error that stands at a place on the colour scale.
function errorAt(place) {
  return (ranked.find((m) => standing(m.error) >= place - 1e-9) || ranked[ranked.length - 1]).error;
}

function ramp(t) {
  const at = t * (theme.scale.length - 1);
  const i = Math.min(Math.floor(at), theme.scale.length - 2);
  const [a, b] = [theme.scale[i], theme.scale[i + 1]].map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));
  return `rgb(${a.map((x, k) => Math.round(x + (b[k] - x) * (at - i))).join(',')})`;
}

const has = (value) => value !== null && value !== undefined;
const decimals = (value) => (value >= 100 ? value.toPrecision(4) : value >= 0.001 || value === 0 ? value.toFixed(4) : value.toPrecision(2));
const show = {
  error: (v) => (has(v) ? decimals(v) : '\u2013'),
  count(v) {
    if (!has(v)) return '\u2013';
    for (const [unit, size] of [['T', 1e12], ['G', 1e9], ['M', 1e6], ['k', 1e3]]) {
      if (Math.abs(v) >= size * 0.9995) return `${Number((v / size).toPrecision(3))}${unit}`;
    }
    return String(Number(v.toPrecision(4)));
  },
  seconds(v) {
    if (!has(v)) return '\u2013';
    if (v < 100) return `${v < 10 ? v.toFixed(1) : Math.round(v)} s`;
    const minutes = Math.round(v / 60);
    if (minutes < 100) return `${minutes} min`;
    return minutes < 1200 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${show.count(Math.round(minutes / 60))} h`;
  },
  moment: (v) => (has(v) ? `${Number((1000 * v).toPrecision(3))} ms` : '\u2013'),
  gain: (v) => (has(v) ? `${v > 0 ? '+' : v < 0 ? '\u2212' : '\u00b1'}${Math.abs(v).toFixed(4)}` : '\u2013'),
  brief: (m) => (has(m.promotes) ? `${m.promotes} up` : m.control ? 'no-op' : m.rules.length > 1 ? `${m.rules[0]} +${m.rules.length - 1}` : m.rules.join()),
  status: (m) => m.status.replaceAll('_', ' '),
  edits(m) {
    if (has(m.promotes)) return `${m.promotes} promoted to ${show.count(m.fidelity)} examples`;
    return m.control ? 'no-op control' : m.rules.join(' + ') || (m.founder ? 'founder' : 'no edit');
  },
};

// What cannot be seen, or reorders what stands around it, is written as an escape.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]/gu;
const visible = (text) => String(text).replace(INVISIBLE, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'style') Object.assign(node.style, value);
    else if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (value !== false && has(value)) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter(has).map((child) => (child instanceof Node ? child : visible(child))));
  return node;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
