// nodes: the mark of each member on the canvas.

const pointed = (m) => m === state.chosen || m === state.other || m === state.hovered;

function drawNode(m) {
  const r = camera.radius + (pointed(m) || m === best ? 2.5 : state.line.has(m) && !cased() && state.view !== 'front' ? 1 : 0);
  pen.globalAlpha = !m.matches && !pointed(m) ? 0.12 : state.view === 'front' && !replay.front.has(m) && !marked(m) ? 0.5 : 1;
  pen.fillStyle = pen.strokeStyle = m.colour;
  if (m === best) return drawStar(m, Math.max(r + 3, 9));
  if (m.failed) drawCross(m, r * 0.72);
  else if (m.status === 'pending') drawRing(m, r - 0.75, [2, 2]);
  else if (m.twin !== null) drawRing(m, r - 0.75, []);
  else drawSolid(m, r);
  if (pointed(m)) drawHalo(m, r);
  pen.globalAlpha = 1;
}

function drawSolid(m, r) {
  pen.beginPath();
  if (m.control) {
    pen.moveTo(m.sx, m.sy - r * 1.2);
    for (const [x, y] of [[1.2, 0], [0, 1.2], [-1.2, 0]]) pen.lineTo(m.sx + r * x, m.sy + r * y);
    pen.closePath();
  } else pen.arc(m.sx, m.sy, r, 0, 7);
  pen.fill();
  if (r < 4) return;
  pen.strokeStyle = theme.card;
  pen.lineWidth = 1;
  pen.stroke();
}

function drawRing(m, r, dashes) {
  pen.beginPath();
  pen.arc(m.sx, m.sy, Math.max(r, 1.2), 0, 7);
  pen.fillStyle = theme.card;
  pen.fill();
  pen.setLineDash(dashes);
  pen.lineWidth = r > 4 ? 2.2 : 1.4;
  pen.stroke();
  pen.setLineDash([]);
}

function drawCross(m, r) {
  pen.beginPath();
  for (const side of [-1, 1]) {
    pen.moveTo(m.sx - r, m.sy - r * side);
    pen.lineTo(m.sx + r, m.sy + r * side);
  }
  pen.lineWidth = r > 4 ? 2.2 : 1.4;
  pen.stroke();
}

function drawHalo(m, r) {
  pen.beginPath();
  pen.arc(m.sx, m.sy, r + 3, 0, 7);
  pen.strokeStyle = m === state.chosen ? theme.accent : m === state.other ? theme.second : theme.soft;
  pen.lineWidth = 2;
  pen.stroke();
}

function drawStar(m, r) {
  pen.beginPath();
  for (let k = 0; k < 10; k++) {
    const [angle, size] = [(k * Math.PI) / 5 - Math.PI / 2, k % 2 ? r * 0.46 : r];
    pen.lineTo(m.sx + size * Math.cos(angle), m.sy + size * Math.sin(angle));
  }
  pen.closePath();
  pen.fillStyle = theme.star;
  pen.strokeStyle = theme.card;
  pen.lineWidth = 3;
  pen.stroke();
  pen.fill();
  if (pointed(m)) drawHalo(m, r - 1);
  pen.globalAlpha = 1;
}
