// What a page hands out: each file in the forms that it has, a button for every form.

function made(tag, values, ...children) {
  const node = Object.assign(document.createElement(tag), values);
  node.append(...children);
  return node;
}

export default {
  render({ model, el }) {
    const rows = new Map();
    for (const name of model.get("names")) {
      const [stem, kind] = name.split(".");
      if (!rows.has(stem)) rows.set(stem, made("div", { className: "file" }, made("span", { textContent: stem.replaceAll("_", " ") })));
      const button = made("button", { type: "button", textContent: kind.toUpperCase() });
      button.setAttribute("aria-label", `Download ${name}`);
      button.addEventListener("click", () => model.send({ name }));
      rows.get(stem).append(button);
    }
    const words = "These files hold what is shown now, each number with its unit.";
    el.append(made("h2", { textContent: "Take it along" }), made("p", { textContent: words }));
    el.append(made("div", { className: "exports" }, ...rows.values()));
    const refused = made("p", { className: "refused" });
    refused.setAttribute("role", "alert");
    const tell = () => refused.replaceChildren(model.get("said"));
    model.on("change:said", tell);
    el.append(refused);
    return () => model.off("change:said", tell);
  },
};
