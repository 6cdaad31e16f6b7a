// A chart as a picture, which plotly makes.

const NARROW = 420; // pixels across a chart on a phone, where amounts below it would run into each other

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

// one plotly.js for all charts of a document: the one that the server gives, else the kernel's
function library(model) {
  const address = document.body.dataset.plotly;
  globalThis.memscapePlotly ??= globalThis.Plotly
    ? Promise.resolve(globalThis.Plotly)
    : address
      ? run(address).catch(() => fromKernel(model))
      : fromKernel(model);
  return globalThis.memscapePlotly;
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

// on the card's ground, since a picture stands on any paper
function figure(box, spec) {
  const style = getComputedStyle(box);
  const ask = (name) => style.getPropertyValue(`--${name}`).trim() || style.color;
  const { data, layout } = coloured(spec, ask);
  const [width, height] = [box.clientWidth, box.clientHeight];
  const ground = { paper_bgcolor: ask("card"), plot_bgcolor: "rgba(0,0,0,0)", width, height };
  const axes = {
    xaxis: { ...axis(layout.xaxis, ask), ...(width < NARROW && layout.xaxis.nticks ? { nticks: 4 } : {}) },
    yaxis: axis(layout.yaxis, ask),
  };
  return { data, layout: { font: { family: style.fontFamily, size: 14, color: ask("ink") }, ...layout, ...axes, ...ground } };
}

// buttons beside a chart; `shown` gives the figure that it shows now
function pictures(box, shown, model) {
  const row = document.createElement("div");
  row.className = "memscape-pictures";
  const said = row.appendChild(document.createElement("span"));
  said.setAttribute("role", "alert");
  for (const format of ["png", "svg"]) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: format.toUpperCase() });
    button.setAttribute("aria-label", `Save this chart as ${format.toUpperCase()}`);
    button.addEventListener("click", async () => {
      const drawn = figure(box, shown());
      const { width, height } = drawn.layout;
      const filename = document.title.replace(/\W+/g, "-");
      try {
        const Plotly = await library(model);
        await Plotly.downloadImage(drawn, { format, width, height, scale: 2, filename });
        said.textContent = "";
      } catch {
        globalThis.memscapePlotly = undefined; // the next try asks anew
        said.textContent = "The picture could not be made; reload the page and try again.";
      }
    });
    row.append(button);
  }
  return row;
}
