// Draws a figure and keeps it in step with its data, its width and the colours of the page: some of them as boxes of the
// page (boxes.js), all else by plotly.

const REST = 120; // milliseconds between two drawings of a chart: one that keeps step with a slider holds it up
const PAPER = 1010; // pixels across a printed page, which its style sheet makes smaller
const NARROW = 420; // pixels across a chart on a phone, where amounts below it would run into each other
const FALLBACK = { ink: "#17202b", soft: "#52606f", line: "#d7dee6", card: "#ffffff", accent: "#1f55c4" };

function run(address) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => (globalThis.Plotly ? resolve(globalThis.Plotly) : reject(new Error("no plotly.js")));
    script.onerror = () => reject(new Error("plotly.js could not be run"));
    document.head.append(script);
  });
}

function fromKernel(model) {
  return new Promise((resolve, reject) => {
    const receive = async (content, buffers) => {
      if (content.type !== "plotly.js") return;
      model.off("msg:custom", receive);
      try {
        const unpacked = new Blob([buffers[0]]).stream().pipeThrough(new DecompressionStream("gzip"));
        const script = new Blob([await new Response(unpacked).blob()], { type: "text/javascript" });
        resolve(await run(URL.createObjectURL(script)));
      } catch (error) {
        reject(error);
      }
    };
    model.on("msg:custom", receive);
    model.send("plotly.js");
  });
}

// Running plotly.js takes longer than all else on a page: what is read and moved is painted first.
async function fromPage(address, box) {
  document.head.append(Object.assign(document.createElement("link"), { rel: "preload", as: "script", href: address }));
  await new Promise((resolve) => {
    const laidOut = new ResizeObserver(([entry]) => {
      if (!entry.contentRect.width) return;
      laidOut.disconnect();
      setTimeout(resolve);
    });
    laidOut.observe(box);
  });
  await new Promise((resolve) =>
    globalThis.requestIdleCallback ? requestIdleCallback(resolve, { timeout: 1000 }) : setTimeout(resolve, 100),
  );
  return run(address);
}

// one plotly.js for all charts of a document: the one that the server gives, else the kernel's
function library(model, box) {
  const address = document.body.dataset.plotly;
  globalThis.memscapePlotly ??= globalThis.Plotly
    ? Promise.resolve(globalThis.Plotly)
    : address
      ? fromPage(address, box).catch(() => fromKernel(model))
      : fromKernel(model);
  return globalThis.memscapePlotly;
}

// Charts are drawn when what is read has been painted, one by one, each from the newest data.
function turns() {
  globalThis.memscapeTurns ??= (() => {
    const waiting = new Set();
    const next = () => {
      const [draw] = waiting;
      waiting.delete(draw);
      if (waiting.size) setTimeout(next);
      draw?.();
    };
    const later = (draw) => {
      if (!waiting.size) requestAnimationFrame(() => setTimeout(next));
      waiting.add(draw);
    };
    return { later, never: (draw) => waiting.delete(draw) };
  })();
  return globalThis.memscapeTurns;
}

// The colours that a chart asks the page for, kept until the theme changes: asking costs the page a pass over its style.
function paints(box) {
  const known = new Map();
  const ask = (name) => {
    if (!known.size) known.set("font", getComputedStyle(box).fontFamily);
    if (!known.has(name)) {
      const given = getComputedStyle(box).getPropertyValue(`--${name}`).trim();
      known.set(name, given || FALLBACK[name] || FALLBACK.accent);
    }
    return known.get(name);
  };
  return { ask, forget: () => known.clear() };
}

// a copy of a figure in which each "var(--name)" is the colour that the page gives it now
function coloured(value, ask) {
  if (typeof value === "string") return value.replace(/var\(--([\w-]+)\)/g, (_, name) => ask(name));
  if (Array.isArray(value)) return value.map((each) => coloured(each, ask));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, ask)]));
  return value;
}

function axis(given, ask) {
  const line = ask("line");
  return { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line, ...given };
}

function layout(given, ask, width, height) {
  const ink = ask("ink");
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: ask("font"), size: 14, color: ink },
    dragmode: false,
    ...given,
    hoverlabel: { bgcolor: ask("card"), bordercolor: ask("line"), font: { color: ink }, ...given.hoverlabel },
    xaxis: { ...axis(given.xaxis, ask), ...(width < NARROW && given.xaxis?.nticks ? { nticks: 4 } : {}) },
    yaxis: axis(given.yaxis, ask),
    width,
    height,
    autosize: false,
  };
}

// a chart as a file: on the card's ground, since a picture stands on any paper
function pictures(box, model, ask) {
  const row = document.createElement("div");
  row.className = "memscape-pictures";
  for (const format of ["png", "svg"]) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: format.toUpperCase() });
    button.setAttribute("aria-label", `Save this chart as ${format.toUpperCase()}`);
    button.addEventListener("click", async () => {
      const Plotly = await library(model, box);
      const { data = [], layout: given = {} } = coloured(model.get("spec"), ask);
      const [width, height] = [box.clientWidth, model.get("height")];
      const figure = { data, layout: { ...layout(given, ask, width, height), paper_bgcolor: ask("card") } };
      Plotly.downloadImage(figure, { format, width, height, scale: 2, filename: document.title.replace(/\W+/g, "-") });
    });
    row.append(button);
  }
  return row;
}

export default {
  async render({ model, el }) {
    const box = document.createElement("div");
    box.className = "memscape-chart";
    box.setAttribute("role", "img");
    el.append(box);
    const describe = () => box.setAttribute("aria-label", model.get("alt") || "chart");
    const size = () => (box.style.height = `${model.get("height")}px`);
    describe();
    size();
    const { ask, forget } = paints(box);
    model.on("change:alt", describe);
    model.on("change:height", size);
    if (model.get("spec").layout?.meta) {
      const show = () => boxes(box, model.get("spec"));
      show();
      model.on("change:spec", show);
      el.append(pictures(box, model, (name) => (forget(), ask(name))));
      return;
    }
    let Plotly;
    try {
      Plotly = await library(model, box);
    } catch {
      box.textContent = model.get("alt"); // the same in words
      return;
    }
    el.append(pictures(box, model, ask));
    const { later, never } = turns();
    let width = Math.floor(box.clientWidth);
    // the first picture is drawn wherever it is, the next ones when somebody can see them
    let near = true;
    let drawn = false;
    let stale = false;
    let resting = 0;
    const draw = () => {
      if (!width) return;
      stale = false;
      drawn = true;
      clearTimeout(resting);
      resting = setTimeout(() => ((resting = 0), stale && look()), REST);
      const { data = [], layout: given = {} } = coloured(model.get("spec"), ask);
      const config = { displayModeBar: false, responsive: false };
      Plotly.react(box, data, layout(given, ask, width, model.get("height")), config);
    };
    const look = () => {
      if (!resting && (near || !drawn)) later(draw);
    };
    const change = () => ((stale = true), look());
    const recolour = () => (forget(), change());
    // paper is light, waits for nothing, and has a width of its own
    const print = () => (forget(), (width = PAPER), draw());
    const printed = () => ((width = Math.floor(box.clientWidth)), recolour());
    const widths = new ResizeObserver(([entry]) => {
      const now = Math.floor(entry.contentRect.width);
      if (now !== width) (width = now), change();
    });
    const sights = new IntersectionObserver(
      ([entry]) => {
        near = entry.isIntersecting;
        if (stale) look();
      },
      { rootMargin: "100px" },
    );
    const themes = new MutationObserver(recolour);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    for (const node of [document.documentElement, document.body])
      themes.observe(node, { attributes: true, attributeFilter: ["data-theme", "data-jp-theme-name"] });
    dark.addEventListener("change", recolour);
    addEventListener("beforeprint", print);
    addEventListener("afterprint", printed);
    model.on("change:spec", change);
    model.on("change:height", change);
    change();
    widths.observe(box);
    sights.observe(box);
    return () => {
      never(draw);
      clearTimeout(resting);
      for (const observer of [widths, sights, themes]) observer.disconnect();
      dark.removeEventListener("change", recolour);
      removeEventListener("beforeprint", print);
      removeEventListener("afterprint", printed);
      Plotly.purge(box);
    };
  },
};
