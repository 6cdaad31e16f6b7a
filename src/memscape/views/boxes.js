// What a page draws, in the frame of its answer. Each kind takes a plotly figure as it is and reads what it needs;
// `layout.meta` says which kind it is.

const STEPS = [1, 2, 2.5, 5, 10]; // an axis counts in one of these, times a power of ten
const MOST_TICKS = 6;

function made(kind, name, style = {}, text = "") {
  const node = Object.assign(document.createElement(kind), { className: name, textContent: text });
  Object.assign(node.style, style);
  return node;
}

// as toLocaleString writes it, which takes the browser 14 ms when it is first asked
const counted = (number) => String(+number.toFixed(3)).replace(/\B(?=(\d{3})+$)/g, ",").replace("-", "−");
const share = (part, whole) => `${((100 * part) / whole).toFixed(3)}%`;
const lines = (words) => words.split("<br>").map((each) => each.replace(/<.*?>/g, ""));

function label(words) {
  const node = made("span", "bar-name", { fontWeight: words.startsWith("<b>") ? 700 : 400 });
  for (const each of lines(words)) node.append(made("span", "", {}, each));
  return node;
}

function ticks(start, end) {
  const size = 10 ** Math.floor(Math.log10((end - start) / MOST_TICKS));
  const step = size * STEPS.find((each) => (end - start) / (each * size) <= MOST_TICKS);
  const first = Math.ceil(start / step);
  return Array.from({ length: Math.floor(end / step) - first + 1 }, (_, place) => (first + place) * step);
}

// a node that says something when it is pointed at
function saying(node, words) {
  node.dataset.said = lines(words).join("\n");
  return node;
}

// the marks of an axis: where each stands, and its words
const marked = ({ tickvals, ticktext }, at) => tickvals.map((mark, k) => [at(mark), ticktext[k]]);

// where a value stands on an axis, and how long a size is there
function measured({ range: [start, last] }) {
  const long = (size) => share(size, last - start || 1);
  return [(value) => long(value - start), long];
}

const late = ({ range: [start, last] }, value) => (value - start > (last - start) / 2 ? "bar-late" : "");

// rows below one another, each with its name, over one axis; `fill` puts into a row what it shows
function rows(names, axis, edges, fill) {
  const [left] = measured(axis);
  const marks = ticks(axis.range[0], axis.range[1] || 1);
  const below = made("div", "bar-axis");
  for (const mark of marks) below.append(made("span", "", { left: left(mark) }, counted(mark)));
  below.append(made("span", "bar-title", {}, axis.title.text));
  const nodes = names.flatMap(([name, words], number) => {
    const track = made("div", "bar-track");
    for (const mark of marks) track.append(made("i", "bar-grid", { left: left(mark) }));
    fill(track, name, number);
    for (const edge of edges) track.append(made("i", "bar-edge", { left: left(edge) }));
    return [label(words), track];
  });
  return [...nodes, made("span", ""), below];
}

// bars that lie, each of pieces
function lying({ data: [{ x: sizes, y: names, base, marker, hovertext, text }], layout: { xaxis, meta } }) {
  const [left, long] = measured(xaxis);
  return rows(meta.rows, xaxis, meta.edges, (track, name) =>
    names.forEach((each, k) => {
      if (each !== name) return;
      const place = { left: left(base[k]), width: long(sizes[k]), background: marker.color[k] };
      track.append(saying(made("i", `bar-piece ${late(xaxis, base[k])}`, place), hovertext[k]));
      if (text?.[k]) track.append(made("span", "bar-amount", { left: left(base[k] + sizes[k]) }, text[k]));
    }),
  );
}

// points, a row for each kind
function pointed({ data, layout: { xaxis, meta } }) {
  const [left] = measured(xaxis);
  return rows(meta.rows, xaxis, meta.edges, (track, _, number) => {
    const { x, hovertext, marker } = data[number];
    x.forEach((value, k) => {
      const place = { left: left(value), color: marker.color };
      track.append(saying(made("i", `row-point ${late(xaxis, value)}`, place), hovertext[k]));
    });
  });
}

// devices as tiles: the background of a row, repeated, is what each of its devices holds
function tiled({ data: [{ y: sizes, base, marker, hovertext }], layout: { xaxis, meta } }) {
  const nodes = meta.rows.flatMap(([bottom, words, fits]) => {
    const mine = base.map((_, k) => k).filter((k) => Math.floor(base[k]) === bottom);
    const stop = (k, place) => share(place - bottom, meta.filled);
    const held = mine.map((k) => `${marker.color[k]} ${stop(k, base[k])} ${stop(k, base[k] + sizes[k])}`);
    const [frame, gap] = [`var(--${fits ? "soft" : "alert"})`, `${(50 * (1 - meta.filled)).toFixed(1)}%`];
    const sides = [
      `var(--card) 0 ${gap}`,
      `${frame} 0 calc(${gap} + 2px)`,
      `transparent 0 calc(100% - ${gap} - 2px)`,
      `${frame} 0 calc(100% - ${gap})`,
      "var(--card) 0",
    ];
    const ends = [`${frame} 2px`, "transparent 0 calc(100% - 2px)", `${frame} 0`];
    const layers = [`90deg, ${sides}`, `${ends}`, `to top, ${held}`].map((each) => `linear-gradient(${each})`);
    const size = `${100 / meta.tiles}% 100%`;
    const row = made("div", "tile-row", { backgroundImage: layers.join(", "), backgroundSize: size });
    return [label(words), saying(row, hovertext[mine[0]])];
  });
  return [...nodes, made("span", ""), made("div", "tile-title", {}, xaxis.title.text)];
}

const DASHES = { dash: [9, 9], dot: [3, 3], dashdot: [9, 3, 3, 3], longdash: [15, 15] };
const BORDERS = { solid: "solid", dot: "dotted" };

// where a value stands on a logarithmic axis
const along = ({ range: [low, high] }, value) => (Math.log10(value) - low) / (high - low);

// what is nothing has no place on a logarithmic axis
function curves(data, across, up) {
  const paths = data.map(({ x, y, line }) => {
    const there = x.map((_, k) => k).filter((k) => y[k] > 0);
    const points = there.map((k) => `${across(x[k]).toFixed(4)} ${(1 - up(y[k])).toFixed(4)}`);
    const dashes = DASHES[line.dash] ?? [];
    const style = `stroke: ${line.color}; stroke-width: ${line.width}; stroke-dasharray: ${dashes.join(" ")}`;
    return points.length && `<path d="M${points.join("L")}" style="${style}" vector-effect="non-scaling-stroke"/>`;
  });
  const node = made("div", "line-paths");
  node.innerHTML = `<svg viewBox="0 0 1 1" preserveAspectRatio="none">${paths.filter(Boolean).join("")}</svg>`;
  return node;
}

// strips from one length to the next, each with what all lines say of it
function strips(data, across) {
  const said = new Map();
  for (const { x, hovertext } of data) x.forEach((each, k) => said.set(each, [...(said.get(each) ?? []), hovertext[k]]));
  const lengths = [...said.keys()].sort((one, other) => one - other);
  const middle = (k) => (k < 1 ? 0 : k < lengths.length ? (across(lengths[k - 1]) + across(lengths[k])) / 2 : 1);
  return lengths.map((each, k) => {
    const place = { left: share(middle(k), 1), width: share(middle(k + 1) - middle(k), 1) };
    const strip = made("i", middle(k) > 0.5 ? "line-strip bar-late" : "line-strip", place);
    strip.dataset.said = said.get(each).join("\n");
    return strip;
  });
}

function legend(data) {
  const node = made("div", "line-legend");
  for (const { name, line, marker } of data) {
    const border = line && `${line.width}px ${BORDERS[line.dash] ?? "dashed"} ${line.color}`;
    const sign = marker ? made("i", "line-point", { background: marker.color }) : made("i", "", { borderTop: border });
    node.appendChild(made("span", "", {}, name)).prepend(sign);
  }
  return node;
}

// an axis on the left and one below, with their marks, and what is drawn between them
function plane(below, beside, across, up) {
  const [names, track, axis] = ["line-names", "bar-track", "bar-axis"].map((name) => made("div", name));
  for (const [left, words] of below) axis.append(made("span", "", { left }, words));
  for (const [bottom, words] of beside) names.append(made("span", "", { bottom }, words));
  axis.append(made("span", "bar-title", {}, across?.text ?? ""));
  names.append(made("span", "line-title", {}, up?.text ?? ""));
  return { track, nodes: [names, track, made("span", ""), axis] };
}

// lines over two logarithmic axes, and the point that is chosen
function lined({ data, layout: { xaxis, yaxis } }) {
  const [across, up] = [xaxis, yaxis].map((axis) => (value) => along(axis, value));
  const below = marked(xaxis, (mark) => share(across(mark), 1));
  const beside = marked(yaxis, up)
    .filter(([place]) => place >= 0 && place <= 1)
    .map(([place, words]) => [share(place, 1), words]);
  const { track, nodes } = plane(below, beside, xaxis.title);
  for (const [left] of below) track.append(made("i", "bar-grid", { left }));
  for (const [bottom] of beside) track.append(made("i", "line-grid", { bottom }));
  const points = data.filter((each) => each.marker && each.y[0] > 0);
  track.append(curves(data.filter((each) => !each.marker), across, up));
  for (const { x, y, marker } of points) {
    const place = { left: share(across(x[0]), 1), bottom: share(up(y[0]), 1), background: marker.color };
    track.append(made("i", "line-point", place));
  }
  track.append(...strips(data, across));
  return [legend(data), ...nodes];
}

// bars that stand, each of pieces, with words above some of them and a line that is not to be passed
function standing({ data: [{ x, y: sizes, base, width, marker, hovertext }, words], layout: { xaxis, yaxis, shapes } }) {
  const [[left, wide], [bottom, high]] = [measured(xaxis), measured(yaxis)];
  const below = marked(xaxis, left);
  const beside = ticks(...yaxis.range).map((mark) => [bottom(mark), counted(mark)]);
  const { track, nodes } = plane(below, beside, xaxis.title, yaxis.title);
  for (const [place] of beside) track.append(made("i", "line-grid", { bottom: place }));
  x.forEach((place, k) => {
    const across = { left: left(place - width / 2), width: wide(width), background: marker.color[k] };
    const up = { bottom: bottom(base[k]), height: high(sizes[k]) };
    track.append(saying(made("i", `bar-part ${late(xaxis, place)}`, { ...across, ...up }), hovertext[k]));
  });
  for (const { y0 } of shapes) track.append(made("i", "bar-limit", { bottom: bottom(y0) }));
  words.x.forEach((place, k) => {
    const node = label(words.text[k]);
    node.className = "bar-word";
    Object.assign(node.style, { left: left(place), bottom: bottom(words.y[k]) });
    track.append(node);
  });
  return nodes;
}

// the colour of a place on a scale of colours
function shade(scale, place) {
  const next = scale.findIndex(([end], k) => k && place <= end && end > scale[k - 1][0]);
  const [[start, from], [end, to]] = [scale[next - 1], scale[next]];
  return `color-mix(in srgb, ${to} ${share(place - start, end - start)}, ${from})`;
}

// numbers that come packed
function unpacked({ dtype, bdata }) {
  const { buffer } = Uint8Array.from(atob(bdata), (each) => each.charCodeAt(0));
  return dtype === "u1" ? new Uint8Array(buffer) : new Float32Array(buffer);
}

// the squares of a map as one path for each shade, and the lines over them; rows are counted from the bottom
function squares({ z, zmax, colorscale }, [columns, rows], edges) {
  const [shades, levels] = [Array.from({ length: zmax + 1 }, () => ""), unpacked(z)];
  for (let row = 0; row < rows; row += 1)
    for (let first = 0, next = 1; first < columns; first = next++) {
      const level = levels[row * columns + first];
      while (next < columns && levels[row * columns + next] === level) next += 1;
      shades[level] += `M${first} ${rows - 1 - row}h${next - first}v1H${first}z`;
    }
  const filled = shades.map((d, level) => d && `<path d="${d}" style="fill: ${shade(colorscale, level / zmax)}"/>`);
  const drawn = edges.map(({ x, y, line }) => {
    const points = x.map((each, k) => [each + 0.5, rows - 0.5 - y[k]]);
    const steps = points.map(([across, up], k) => {
      if (!k || line.shape === "linear") return `${k ? "L" : "M"}${across} ${up}`;
      return `H${across - 0.5}V${up}H${across}`;
    });
    const style = `fill: none; stroke: ${line.color}; stroke-width: ${line.width}`;
    return `<path d="${steps.join("")}" style="${style}" vector-effect="non-scaling-stroke"/>`;
  });
  const node = made("div", "map-paths");
  const box = `viewBox="0 0 ${columns} ${rows}" preserveAspectRatio="none"`;
  node.innerHTML = `<svg ${box}>${filled.join("")}${drawn.join("")}</svg>`;
  return node;
}

// what the square that is pointed at stands for
function pointer(track, { xaxis, yaxis, meta: { across, up, held, unit } }) {
  const [said, sizes] = [track.appendChild(made("span", "map-said")), unpacked(held)];
  track.addEventListener("pointermove", ({ clientX, clientY }) => {
    const box = track.getBoundingClientRect();
    const column = Math.floor(((clientX - box.left) / box.width) * across.length);
    const row = Math.floor(((box.bottom - clientY) / box.height) * up.length);
    if (!(column in across && row in up)) return;
    const size = sizes[row * across.length + column];
    const where = `${xaxis.title.text}: ${counted(across[column])}\n${yaxis.title.text}: ${counted(up[row])}`;
    said.textContent = `${where}\n${counted(+size.toPrecision(3))} ${unit}`;
    said.style.left = `clamp(0px, ${share(column + 1, across.length)}, 100% - 14rem)`;
    said.style.top = share(up.length - row, up.length);
  });
}

// a map over two inputs: squares, the edge of what fits, the point that is chosen
function mapped({ data: [cells, ...others], layout }) {
  const { xaxis, yaxis, meta } = layout;
  const [[left], [bottom]] = [measured(xaxis), measured(yaxis)];
  const [below, beside] = [marked(xaxis, left), marked(yaxis, bottom)];
  const { track, nodes } = plane(below, beside, xaxis.title, yaxis.title);
  const counts = [meta.across.length, meta.up.length];
  track.append(squares(cells, counts, others.filter(({ line }) => line)));
  for (const { x, y, text } of others.filter(({ marker }) => marker))
    track.append(made("span", "map-point", { left: left(x[0]), bottom: bottom(y[0]) }, text[0]));
  pointer(track, layout);
  return nodes;
}

const KINDS = { bars: lying, points: pointed, tiles: tiled, lines: lined, course: standing, map: mapped };

function boxes(box, { layout, data }) {
  if (!layout) return; // nothing to show yet
  const { kind, rows } = layout.meta;
  const above = kind === "lines" ? "auto " : "";
  const heights = rows ? `repeat(${rows.length}, minmax(0, 1fr)) auto` : `${above}minmax(0, 1fr) auto`;
  const grid = made("div", `memscape-bars of-${kind}`, { gridTemplateRows: heights });
  grid.append(...KINDS[kind]({ data, layout }));
  box.replaceChildren(grid);
}
