// The column of results below its headlines: a place for each output, in the page's order, then the files to take along.

const FIGURES = new WeakMap(); // what each chart shows

function put(place, { value, spec, alt, waits }) {
  const inner = place.firstChild;
  if (value !== undefined) inner.innerHTML = value;
  if (spec !== undefined) {
    FIGURES.set(inner, spec);
    boxes(inner, spec);
  }
  if (alt !== undefined) inner.setAttribute("aria-label", alt || "chart");
  if (waits !== undefined) place.classList.toggle("waits", waits);
}

function place(name, { kind, style, height }, model) {
  const node = made("div", `output-${name} ${style}`);
  if (kind === "html") node.append(made("div", "html"));
  else {
    const box = made("div", "memscape-chart", { height: `${height}px` });
    box.setAttribute("role", "img");
    node.append(box, pictures(box, () => FIGURES.get(box), model));
  }
  return node;
}

// each file in the forms that it has, a button for every form
function files(names, model) {
  const rows = new Map();
  for (const name of names) {
    const [stem, kind] = name.split(".");
    if (!rows.has(stem)) {
      rows.set(stem, made("div", "file"));
      rows.get(stem).append(made("span", "", {}, stem.replaceAll("_", " ")));
    }
    const button = Object.assign(made("button", "", {}, kind.toUpperCase()), { type: "button" });
    button.setAttribute("aria-label", `Download ${name}`);
    button.addEventListener("click", () => model.send({ name }));
    rows.get(stem).append(button);
  }
  const all = made("div", "exports");
  all.append(...rows.values());
  const refused = made("p", "refused");
  refused.setAttribute("role", "alert");
  const card = made("div", "card");
  const words = "These files hold what is shown now, each number with its unit.";
  card.append(made("h2", "", {}, "Take it along"), made("p", "", {}, words), all, refused);
  return card;
}

// what fills an element with the results and keeps it in step with them
function column(el, model) {
  let places = new Map();
  let late = null; // what is still to be painted, by name: the newest state, which the page keeps
  const change = ({ outputs = {}, said }) => {
    for (const [name, state] of Object.entries(outputs)) if (!late?.[name] && places.has(name)) put(places.get(name), state);
    if (said !== undefined) el.querySelector(".refused")?.replaceChildren(said);
  };
  const fill = () => {
    const outputs = late ?? {};
    late = null;
    change({ outputs });
  };
  const show = ({ outputs = {}, files: names = [], headlines = {} }) => {
    late = Object.fromEntries(Object.entries(outputs).filter(([name]) => !(name in headlines)));
    places = new Map(Object.entries(late).map(([name, state]) => [name, place(name, state, model)]));
    el.replaceChildren(...places.values(), ...(names.length ? [files(names, model)] : []));
    requestAnimationFrame(() => setTimeout(fill)); // headlines and controls are painted first
  };
  return { show, change };
}
