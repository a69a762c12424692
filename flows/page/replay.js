// replay: the front as it was after each candidate, under a slider that lies on the record of its area and least error.
//
// The area is the hypervolume: what the front dominates, as drawn (both axes logarithmic), within the worst that was seen.

const PLAY = 8000; // milliseconds
const corner = rivals.reduce(([x, y], m) => [Math.max(x, along(m)), Math.min(y, height(m))], [-Infinity, Infinity]);
const replay = { until: members.length, front: new Set(front), record: remember(), playing: false };

const frontAfter = (until) => frontOf(rivals.filter((m) => m.index < until));

// After each candidate: the least error, the front's area and how many are on it; null before the first success.
function remember() {
  let [now, told] = [[], null];
  return members.map((m) => {
    if (m.status !== 'ok' || m.error === null || m[source.axis] === null) return told;
    const next = frontOf([...now, m].sort(byMerit(source.axis)));
    if (next.length !== now.length || next.some((other, i) => other !== now[i])) told = { error: next[0].error, area: areaOf(next), count: next.length };
    now = next;
    return told;
  });
}

function areaOf(points) {
  const floor = (i) => (i + 1 < points.length ? height(points[i + 1]) : corner[1]);
  return points.reduce((sum, m, i) => sum + (corner[0] - along(m)) * (height(m) - floor(i)), 0);
}

function replayTo(until) {
  replay.until = Math.min(Math.max(Math.round(until), 1), members.length);
  replay.front = new Set(frontAfter(replay.until));
  $('until').value = replay.until;
  const [told, end] = [replay.record[replay.until - 1], replay.record[members.length - 1]];
  const share = told && end.area > 0 ? `, ${Math.round((100 * told.area) / end.area)} % of the final area` : '';
  $('until-value').textContent = `After ${replay.until.toLocaleString('en')} of ${members.length.toLocaleString('en')}: ` +
    (told ? `least error ${show.error(told.error)}, ${told.count} on the front${share}` : 'no result yet');
  redraw();
}

// Both are steps from left to right, each on its own scale: the area from zero, the error from the greatest to the least.
function drawRecord() {
  const seen = replay.record.filter(has);
  if (!seen.length) return;
  const [most, [first, least]] = [seen[seen.length - 1].area || 1, [seen[0].error, seen[seen.length - 1].error]];
  const steps = (valueOf) => replay.record.map((told, i) => (told ? `${i} ${(100 - 92 * valueOf(told)).toFixed(1)} H${i + 1}` : null)).filter(has);
  const [areas, errors] = [steps((told) => told.area / most), steps((told) => (told.error - least) / Math.max(first - least, 1e-9))];
  const from = members.length - areas.length;
  $('record').setAttribute('viewBox', `0 0 ${members.length} 100`);
  $('record').replaceChildren(
    svg('path', { class: 'area', d: `M${from} 100 L${areas.join(' L')} V100 Z` }),
    svg('path', { class: 'least', d: `M${errors.join(' L')}` }),
  );
}

function play() {
  replay.playing = !replay.playing;
  $('play').textContent = replay.playing ? '\u275a\u275a' : '\u25b6';
  $('play').title = replay.playing ? 'Stop' : 'Play';
  if (!replay.playing) return;
  const begun = performance.now() - (replay.until < members.length ? (replay.until / members.length) * PLAY : 0);
  const step = (now) => {
    if (!replay.playing) return;
    replayTo(((now - begun) / PLAY) * members.length);
    if (replay.until < members.length) requestAnimationFrame(step);
    else play();
  };
  requestAnimationFrame(step);
}

// The front now, and thinner those after an eighth, a quarter and a half of the candidates.
const earlier = () => [8, 4, 2].map((part) => Math.ceil(members.length / part)).filter((until) => until >= 5 && until < replay.until);

function drawFront() {
  earlier().forEach((until, i) => drawSteps(frontAfter(until), 1.2, 0.4 + 0.15 * i));
  drawSteps([...replay.front], 2.5, 1);
}

function drawSteps(best, width, alpha) {
  const points = [...best].reverse().filter((m) => m.shown);
  if (!points.length) return;
  const path = new Path2D();
  points.forEach((m, i) => {
    if (i) path.lineTo(m.sx, points[i - 1].sy);
    else path.moveTo(m.sx, 34);
    path.lineTo(m.sx, m.sy);
  });
  path.lineTo(camera.width, points[points.length - 1].sy);
  pen.strokeStyle = theme.star;
  stroke(path, width, alpha);
}

// Says at its right end after how many candidates an earlier front was reached; returns the places that are taken.
function labelFronts() {
  const taken = [];
  for (const until of earlier()) {
    const [least] = frontAfter(until);
    if (!least || !least.shown) continue;
    const words = `after ${until.toLocaleString('en')}`;
    const box = [camera.width - 10 - pen.measureText(words).width, least.sy - 15, camera.width - 4, least.sy - 1];
    if (box[1] < 60 || crowded(box, taken)) continue;
    taken.push(box);
    write(words, camera.width - 8, least.sy - 8, theme.soft, 'right');
  }
  return taken;
}

function startReplay() {
  $('until').max = Math.max(members.length, 1);
  $('until').addEventListener('input', () => {
    replay.playing = false;
    $('play').textContent = '\u25b6';
    replayTo(Number($('until').value));
  });
  $('play').addEventListener('click', play);
  $('replay').hidden = !judged.length;
  drawRecord();
  replayTo(members.length);
}
