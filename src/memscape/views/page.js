// What a page does beside calculating: its address, its downloads, and what the stock widgets lack for keyboards,
// screen readers and searching. One set of helpers serves all pages of a document.

const PAGE = ".memscape-page";

// A table that is written anew keeps open what the reader had opened, and the kernel is told what that is: it sends what
// is behind a line when the line is opened.
function keepOpen() {
  const open = new Set();
  const told = new Set();
  const key = (details) => {
    const output = details.closest("[class*='output-']");
    return `${[...(output?.classList ?? [])].find((name) => name.startsWith("output-"))} ${details.dataset.part}`;
  };
  const parts = () => [...new Set([...open].map((each) => each.slice(each.indexOf(" ") + 1)))];
  const note = ({ target }) => {
    if (!target.dataset?.part || !target.closest(PAGE)) return;
    open[target.open ? "add" : "delete"](key(target));
    for (const tell of told) tell(parts());
  };
  document.addEventListener("toggle", note, true);
  const reopen = () => {
    for (const details of document.querySelectorAll(`${PAGE} details[data-part]:not([data-seen])`)) {
      details.dataset.seen = "yes";
      if (open.has(key(details))) details.open = true;
    }
  };
  return { reopen, told };
}

function set(node, name, value) {
  if (node && node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// slider handles bear their label and speak their readout; groups have names
function nameParts() {
  for (const handle of document.querySelectorAll(`${PAGE} .noUi-handle`)) {
    const box = handle.closest(".widget-slider");
    const readout = box?.querySelector(".widget-readout");
    set(handle, "aria-label", box?.querySelector(".widget-label")?.textContent.trim() || "value");
    set(handle, "aria-valuetext", readout?.textContent ?? "");
    set(readout, "contenteditable", "false"); // it looks like a field, but what is typed there is lost
  }
  for (const [place, words] of [["controls", "Settings"], ["results", "Results"]]) {
    const box = document.querySelector(`${PAGE} .${place}`);
    set(box, "role", "group");
    set(box, "aria-label", words);
  }
}

// the headline is spoken when it has come to rest, not at every step of a slider
function speakAnswer() {
  let waiting = 0;
  let said = document.querySelector(`${PAGE} .answer .big`)?.textContent;
  return () => {
    const page = document.querySelector(PAGE);
    const words = page?.querySelector(".answer .big")?.textContent;
    if (!words || words === said) return;
    const first = said === undefined;
    said = words;
    clearTimeout(waiting);
    if (first) return;
    waiting = setTimeout(() => {
      let place = page.querySelector(".memscape-spoken");
      if (!place) {
        place = Object.assign(document.createElement("div"), { className: "memscape-spoken" });
        place.setAttribute("role", "status");
        page.append(place);
      }
      place.textContent = words;
    }, 700);
  };
}

// A search field is a text field with a list. Entered, it shows the whole list; left or confirmed, what was typed
// becomes the first option that has all of its words, or what it was before.
function searchFields() {
  const isSearch = (node) => node instanceof HTMLInputElement && node.matches(`${PAGE} .search input`);
  const options = (field) => [...(field.list?.options ?? [])].map((option) => option.value);
  const restore = (field) => {
    field.value = field.dataset.before ?? field.value;
    field.classList.remove("jpwidgets-invalidComboValue");
  };
  const settle = (field) => {
    const known = options(field);
    const typed = field.value.trim().toLowerCase();
    if (!typed) return restore(field);
    const words = typed.split(/\s+/);
    const hit =
      known.find((each) => each.toLowerCase() === typed) ??
      known.find((each) => words.every((word) => each.toLowerCase().includes(word)));
    if (hit === undefined) return restore(field);
    field.dataset.before = hit;
    if (field.value === hit) return;
    field.value = hit;
    for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  const keys = ({ target, key }) => {
    if (!isSearch(target)) return;
    if (key === "Enter") settle(target);
    if (key === "Escape") restore(target);
  };
  document.addEventListener("focusin", ({ target }) => {
    if (!isSearch(target)) return;
    target.dataset.before = target.placeholder = target.value;
    target.value = "";
  });
  document.addEventListener("focusout", ({ target }) => isSearch(target) && settle(target));
  // the widget keeps keys to itself, so they are seen on their way down
  document.addEventListener("keydown", keys, true);
}

function help() {
  const { reopen, told } = keepOpen();
  const helpers = [reopen, speakAnswer()];
  searchFields();
  let [waiting, framed] = [0, false];
  const later = () => {
    waiting ||= setTimeout(() => {
      waiting = 0;
      nameParts();
    }, 50);
  };
  // once for all that changes before the next frame
  const change = () => {
    if (framed) return;
    framed = true;
    requestAnimationFrame(() => {
      framed = false;
      for (const helper of helpers) helper();
    });
    later();
  };
  new MutationObserver(change).observe(document.body, { childList: true, subtree: true });
  later();
  return { told };
}

// Browsers allow few changes of the address in a row, so it is written when a drag rests, and before the reader leaves.
function address() {
  let [waiting, query] = [0, ""];
  const write = () => {
    clearTimeout(waiting);
    waiting = 0;
    history.replaceState(history.state, "", location.pathname + (query ? `?${query}` : "") + location.hash);
  };
  const flush = () => waiting && write();
  addEventListener("pagehide", flush);
  addEventListener("click", flush, true);
  const leave = () => {
    removeEventListener("pagehide", flush);
    removeEventListener("click", flush, true);
  };
  const change = (now) => {
    if (now === undefined || now === query) return;
    query = now;
    clearTimeout(waiting);
    waiting = setTimeout(write, 150);
  };
  return { change, leave };
}

function save({ name, text, kind }) {
  const link = document.createElement("a");
  link.download = name;
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export default () => {
  const columns = new Set();
  let shown = {}; // all that the page shows now
  return {
    initialize({ model }) {
      globalThis.memscapeHelp ??= help();
      const tell = (open) => (model.set("opened", open), model.save_changes());
      memscapeHelp.told.add(tell);
      // JupyterLab's address is its own
      const { change, leave } = document.body.dataset.voila ? address() : { change() {}, leave() {} };
      const take = () => {
        shown = model.get("shown");
        change(shown.query);
        for (const each of columns) each.show(shown);
      };
      const follow = async ({ outputs = {}, ...rest }) => {
        for (const [name, id] of Object.entries(shown.headlines))
          if (outputs[name]) (await model.widget_manager.get_model(id)).set_state(outputs[name]);
        for (const [name, state] of Object.entries(outputs)) Object.assign(shown.outputs[name], state);
        Object.assign(shown, rest);
        for (const each of columns) each.change({ outputs, ...rest });
        change(rest.query);
      };
      model.on("change:shown", take);
      model.on("msg:custom", (content) => {
        if (content.type === "download") save(content);
        if (content.type === "changes") follow(content);
      });
      take();
      return () => (memscapeHelp.told.delete(tell), leave());
    },
    render({ model, el }) {
      const own = column(el, model);
      columns.add(own);
      own.show(shown);
      return () => columns.delete(own);
    },
  };
};
