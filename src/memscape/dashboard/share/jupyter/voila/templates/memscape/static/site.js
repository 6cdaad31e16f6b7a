// What every page has: the theme switch, links that keep the scenario, and a word when the calculation has stopped.
(() => {
  const root = document.documentElement;
  // the switch says what it does: the other theme
  const label = () => {
    const button = document.getElementById("theme");
    if (button) button.textContent = root.dataset.theme === "dark" ? "Light" : "Dark";
  };
  new MutationObserver(label).observe(root, { attributes: true, attributeFilter: ["data-theme"] });

  // A lesson comes before its controls. What they say now stands above it too, and leads to them; it follows them when
  // they rest, so that nothing moves under a reader's hand.
  const shownAhead = (cells) => {
    const page = cells.querySelector(".memscape-page");
    const [question, lesson] = ["h1 ~ p", "h2"].map((each) => cells.querySelector(`.jp-RenderedMarkdown ${each}`));
    const before = page && lesson && lesson.compareDocumentPosition(page) & Node.DOCUMENT_POSITION_FOLLOWING;
    if (!question || !before) return;
    const ahead = Object.assign(document.createElement("section"), { className: "ahead" });
    ahead.setAttribute("aria-label", "The answer now");
    const link = Object.assign(document.createElement("a"), { href: "", textContent: "Change the settings ↓" });
    link.addEventListener("click", (event) => {
      event.preventDefault();
      page.scrollIntoView();
      page.querySelector(".controls :is(input, select)")?.focus({ preventScroll: true });
    });
    let waiting = 0;
    const say = () => {
      const words = [...page.querySelectorAll(".scenario, .answer :is(.over, .big, .lead)")].map((each) => each.cloneNode(true));
      ahead.replaceChildren(...words, link);
    };
    const changed = new MutationObserver(() => {
      clearTimeout(waiting);
      waiting = setTimeout(say, 400);
    });
    for (const output of page.querySelectorAll(".scenario-name, .answer")) changed.observe(output, { childList: true, subtree: true });
    say();
    question.after(ahead);
  };

  // Voilà's renderer asks every tenth of a second whether its widgets are there, and begins to draw them only then:
  // until the page is shown, it asks more often
  const usual = window.setTimeout;
  window.setTimeout = (run, wait, ...rest) => usual(run, wait === 100 ? 5 : wait, ...rest);

  document.addEventListener("DOMContentLoaded", () => {
    label();
    const cells = document.getElementById("rendered_cells");
    // a page is shown when its controls are there, all at once; one without any when its first output is
    const outputs = [...cells.querySelectorAll('script[type="application/vnd.voila.cell-output+json"]')];
    const controls = outputs.some((output) => output.text.includes("application/vnd.jupyter.widget-view+json"));
    const awaited = controls ? ".jupyter-widgets" : ".jp-OutputArea-output:not(:has(> script))";
    const ready = () => {
      if (!cells.querySelector(awaited)) return;
      document.body.classList.add("ready");
      window.setTimeout = usual;
      if (controls && !cells.querySelector(".answer .big")) return;
      watch.disconnect();
      shownAhead(cells);
    };
    const watch = new MutationObserver(ready);
    watch.observe(cells, { childList: true, subtree: true });
    ready();
  });

  // without a secure address a browser gives no clipboard, so the link is put where the old command finds it
  const copy = async (text) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    const field = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    if (!done) throw new Error("not copied");
  };
  const copied = async (button) => {
    const words = await copy(location.href).then(() => "Link copied", () => "Copy the address bar");
    button.textContent = document.getElementById("copied").textContent = words;
    setTimeout(() => (button.textContent = "Copy link"), 2500);
  };

  // paper says of which day it is, and where its settings are
  addEventListener("beforeprint", () => {
    document.querySelector(".site").dataset.printed = `${new Date().toLocaleDateString("sv")} · ${location.href}`;
  });

  document.addEventListener("click", (event) => {
    if (event.target.closest("#copy")) copied(event.target);
    if (event.target.closest("#print")) print();
    if (event.target.closest("#theme")) {
      root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("memscape-theme", root.dataset.theme);
      } catch {
        // the choice lasts for this page
      }
    }
    const link = event.target.closest("a[href]");
    if (link && /^[\w.-]+\.ipynb$/.test(link.getAttribute("href"))) link.search = location.search;
  });

  // a kernel ends when nobody has used its page for long; one that has died, Voilà starts again without the page's
  // widgets: the controls are dead from then on, and Voilà says nothing
  const stopped = /"execution_state":\s*"(restarting|autorestarting|dead)"|"msg_type":\s*"shutdown_reply"/;
  const small = 4000;
  let bar = null;
  let leaving = false;
  addEventListener("pagehide", () => (leaving = true));
  // leaving has freed the kernel; a page that the browser has kept and brings back starts anew, with its address
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  const warn = (lasting) => {
    if (leaving || bar || !document.body) return;
    const again = Object.assign(document.createElement("a"), { href: "", textContent: "Reload with the same settings" });
    again.addEventListener("click", (event) => (event.preventDefault(), location.reload()));
    bar = Object.assign(document.createElement("div"), { className: "dead" });
    bar.setAttribute("role", "alert");
    bar.append(lasting ? "The calculation behind this page has stopped. " : "The server does not answer. ", again, ".");
    bar.dataset.lasting = lasting ? "yes" : "";
    document.body.prepend(bar);
  };
  const connected = () => {
    if (bar && !bar.dataset.lasting) bar = bar.remove() ?? null;
  };
  const sockets = new Set();
  const lost = () => ![...sockets].some((socket) => socket.readyState === WebSocket.OPEN) && warn(false);
  window.WebSocket = class extends WebSocket {
    constructor(...given) {
      super(...given);
      sockets.add(this);
      this.addEventListener("open", connected);
      this.addEventListener("close", () => {
        sockets.delete(this);
        setTimeout(lost, 1500); // the page connects again by itself after a short break
      });
      this.addEventListener("message", ({ data }) => {
        const text = data instanceof ArrayBuffer && data.byteLength < small ? new TextDecoder().decode(data) : data;
        if (typeof text === "string" && text.length < small && stopped.test(text)) warn(true);
      });
    }
  };
})();
