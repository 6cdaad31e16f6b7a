// What a page draws itself, in the frame of its answer: bars that lie, tiles, lines. Each takes a plotly figure as it is
// and reads what it needs; `layout.meta` says which kind it is.

const STEPS = [1, 2, 2.5, 5, 10]; // an axis counts in one of these, times a power of ten
const MOST_TICKS = 6;

function made(kind, name, style = {}, text = "") {
  const node = Object.assign(document.createElement(kind), { className: name, textContent: text });
  Object.assign(node.style, style);
  return node;
}

// as toLocaleString writes it, which takes the browser 14 ms when it is first asked
const counted = (number) => String(+number.toFixed(3)).replace(/\B(?=(\d{3})+$)/g, ",");
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

// bars that lie: a row for each, with its name and its pieces; lines across all of them; an axis below
function lying({ data: [{ x: sizes, y: rows, base, marker, hovertext, text }], layout: { xaxis, meta } }) {
  const [start, last] = xaxis.range;
  const width = (size) => share(size, last - start || 1);
  const left = (place) => width(place - start);
  const marks = ticks(start, last || 1);
  const axis = made("div", "bar-axis");
  for (const mark of marks) axis.append(made("span", "", { left: left(mark) }, counted(mark)));
  axis.append(made("span", "bar-title", {}, xaxis.title.text));
  const nodes = meta.rows.flatMap(([name, words]) => {
    const track = made("div", "bar-track");
    for (const mark of marks) track.append(made("i", "bar-grid", { left: left(mark) }));
    rows.forEach((row, k) => {
      if (row !== name) return;
      const place = { left: left(base[k]), width: width(sizes[k]), background: marker.color[k] };
      const late = base[k] - start > (last - start) / 2;
      const piece = track.appendChild(made("i", late ? "bar-piece bar-late" : "bar-piece", place));
      piece.dataset.said = lines(hovertext[k]).join("\n");
      if (text?.[k]) track.append(made("span", "bar-amount", { left: left(base[k] + sizes[k]) }, text[k]));
    });
    for (const edge of meta.edges) track.append(made("i", "bar-edge", { left: left(edge) }));
    return [label(words), track];
  });
  return [...nodes, made("span", ""), axis];
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
    row.dataset.said = lines(hovertext[mine[0]]).join("\n");
    return [label(words), row];
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

// lines over two logarithmic axes, and the point that is chosen
function lined({ data, layout: { xaxis, yaxis } }) {
  const [across, up] = [xaxis, yaxis].map((axis) => (value) => along(axis, value));
  const [track, axis, names] = ["bar-track", "bar-axis", "line-names"].map((name) => made("div", name));
  xaxis.tickvals.forEach((mark, k) => {
    track.append(made("i", "bar-grid", { left: share(across(mark), 1) }));
    axis.append(made("span", "", { left: share(across(mark), 1) }, xaxis.ticktext[k]));
  });
  yaxis.tickvals.forEach((mark, k) => {
    const place = { bottom: share(up(mark), 1) };
    if (up(mark) < 0 || up(mark) > 1) return;
    track.append(made("i", "line-grid", place));
    names.append(made("span", "", place, yaxis.ticktext[k]));
  });
  const points = data.filter((each) => each.marker && each.y[0] > 0);
  track.append(curves(data.filter((each) => !each.marker), across, up));
  for (const { x, y, marker } of points) {
    const place = { left: share(across(x[0]), 1), bottom: share(up(y[0]), 1), background: marker.color };
    track.append(made("i", "line-point", place));
  }
  track.append(...strips(data, across));
  axis.append(made("span", "bar-title", {}, xaxis.title.text));
  return [legend(data), names, track, made("span", ""), axis];
}

const KINDS = { bars: lying, tiles: tiled, lines: lined };

function boxes(box, spec) {
  const { kind, rows } = spec.layout.meta;
  const heights = rows ? `repeat(${rows.length}, minmax(0, 1fr)) auto` : "auto minmax(0, 1fr) auto";
  const grid = made("div", "memscape-bars", { gridTemplateRows: heights });
  grid.append(...KINDS[kind](spec));
  box.replaceChildren(grid);
}

