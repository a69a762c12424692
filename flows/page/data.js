// data: the family read from the page, and what follows from it (children, best, front).

addEventListener('error', (event) => (document.body.dataset.error = event.message));
addEventListener('unhandledrejection', (event) => (document.body.dataset.error = String(event.reason)));

const $ = (id) => document.getElementById(id);
const source = JSON.parse($('family').textContent);
const members = read(source.columns);
const byNumber = new Map(members.map((m) => [m.number, m]));
relate();
const judged = members.filter((m) => m.status === 'ok' && m.error !== null);
const byMerit = (name) => (a, b) => a.error - b.error || a[name] - b[name] || a.number - b.number;
const ranked = [...judged].sort(byMerit('parameters'));
const best = ranked[0] || null;
const rivals = judged.filter((m) => m[source.axis] !== null).sort(byMerit(source.axis)); // for a place on the front
const front = frontOf(rivals);
const rules = [...new Set(members.flatMap((m) => m.rules))].sort();
for (const m of front) m.front = true;
findHeirs();

function read(columns) {
  const names = Object.keys(columns);
  return (columns.number || []).map((_, i) => {
    const m = { index: i, children: [], depth: 0, front: false, matches: true };
    for (const name of names) m[name] = columns[name][i];
    return m;
  });
}

function relate() {
  for (const m of members) {
    m.from = m.parents.map((number) => byNumber.get(number)).filter((p) => p && p.number < m.number);
    m.parent = m.from[0] || null;
    m.founder = !m.parent;
    m.rival = byNumber.get(m.against) || null;
    m.failed = m.status !== 'ok' && m.status !== 'pending';
    if (m.parent) m.depth = m.parent.depth + 1;
    for (const p of new Set(m.from)) p.children.push(m);
  }
}

// The members that no other beats in both error and the front's other axis, the least there last.
function frontOf(sorted) {
  let least = Infinity;
  return sorted.filter((m) => m[source.axis] < least && ((least = m[source.axis]), true));
}

// The heir is the child through which the best descendant is reached; it stays in its parent's row.
function findHeirs() {
  for (const m of [...members].reverse()) {
    const own = m.status === 'ok' && m.error !== null ? m.error : Infinity;
    const sons = m.children.filter((child) => child.parent === m);
    m.heir = sons.reduce((a, b) => (a === null || b.reach < a.reach ? b : a), null);
    m.reach = Math.min(own, m.heir ? m.heir.reach : Infinity);
  }
}

function ancestry(m) {
  const path = [];
  for (let at = m; at; at = at.parent) path.push(at);
  return path.reverse();
}

// The details and the picture of a member, unpacked when they are first asked for.
const unpacked = new Map();
const details = async (m) => (await unpack(source.details[Math.floor(m.index / source.block)]))[m.index % source.block];
async function picture(m) {
  if (m.picture === null) return null;
  return (await unpack(source.pictures[Math.floor(m.picture / source.sheet)]))[m.picture % source.sheet];
}

function unpack(block) {
  if (!unpacked.has(block)) {
    const bytes = Uint8Array.from(atob(block), (c) => c.charCodeAt(0));
    const stream = new DecompressionStream('deflate');
    const writer = stream.writable.getWriter();
    writer.write(bytes);
    writer.close();
    unpacked.set(block, new Response(stream.readable).json());
  }
  return unpacked.get(block);
}
