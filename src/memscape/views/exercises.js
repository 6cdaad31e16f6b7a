// Exercises: a question and a field each. A prediction goes to the kernel, which knows the answers; its verdict comes back.

const LONGEST = 40;

function made(tag, className, values = {}) {
  return Object.assign(document.createElement(tag), { className, ...values });
}

function exercise({ question, unit }, send) {
  const id = `exercise-${Math.random().toString(36).slice(2)}`; // a notebook may show the same exercises twice
  const form = made("form", "exercise");
  const asked = made("p", "question", { textContent: question, id: `${id}-asked` });
  const label = made("label", "", { textContent: `Your prediction, ${unit}`, htmlFor: id });
  const field = made("input", "", { id, type: "text", inputMode: "decimal", autocomplete: "off", maxLength: LONGEST });
  const row = made("div", "row");
  const said = made("p", "said");
  row.append(field, made("button", "", { type: "submit", textContent: "Compare" }));
  field.setAttribute("aria-describedby", asked.id);
  said.setAttribute("role", "status");
  form.append(asked, label, row, said);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    said.replaceChildren(); // so that the same verdict is spoken again
    send(field.value);
  });
  field.addEventListener("keydown", (event) => {
    event.stopPropagation(); // else JupyterLab takes keys for itself, Enter among them
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  const tell = ({ verdict, words }) => said.replaceChildren(made("b", "", { textContent: verdict }), ` ${words}`);
  return { form, tell };
}

export default {
  render({ model, el }) {
    const list = made("ol", "memscape-exercises");
    const all = model.get("asked").map((each, place) => exercise(each, (words) => model.send({ exercise: place, words })));
    for (const { form } of all) {
      const item = made("li", "");
      item.append(form);
      list.append(item);
    }
    const receive = (content) => all[content.exercise]?.tell(content);
    model.on("msg:custom", receive);
    el.append(list);
    return () => model.off("msg:custom", receive);
  },
};
