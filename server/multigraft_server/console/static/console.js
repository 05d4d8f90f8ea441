// What every page has: the theme's button, dialogs, live parts. Without it, pages work as pages.

const THEMES = ["system", "light", "dark"];

function setTheme(theme) {
  const root = document.documentElement;
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
  const age = theme === "system" ? 0 : 31536000;
  document.cookie = `multigraft-theme=${theme}; Path=/console; Max-Age=${age}; SameSite=Strict`;
}

function themeButton(button) {
  const name = button.querySelector("[data-theme-name]");
  const now = () => document.documentElement.dataset.theme || "system";
  button.hidden = false;
  name.textContent = now();
  button.addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(now()) + 1) % THEMES.length]);
    name.textContent = now();
  });
}

// A link with data-dialog leads to a page that asks; here its question is shown in front of this page.
async function openDialog(link) {
  const answer = await fetch(link.href);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const body = page.querySelector("[data-dialog-body]");
  if (!answer.ok || !body) {
    location.assign(link.href);
    return;
  }
  const dialog = document.getElementById("dialog");
  dialog.replaceChildren(document.adoptNode(body));
  dialog.showModal();
}

document.addEventListener("click", (event) => {
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
  const link = event.target.closest("a[data-dialog]");
  if (link && plain) {
    event.preventDefault();
    openDialog(link).catch(() => location.assign(link.href));
    return;
  }
  const close = event.target.closest("[data-dialog-close]");
  if (close && close.closest("dialog")) {
    event.preventDefault();
    close.closest("dialog").close();
  }
});

// A form is sent once.
document.addEventListener("submit", (event) => {
  for (const button of event.target.querySelectorAll("button:not([type=button])")) {
    setTimeout(() => (button.disabled = true));
  }
});
addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("form button:disabled")) button.disabled = false;
});

// A part of the page that is asked for again, unless nobody sees it.
const PERIOD = 2000;

class Live {
  constructor(element) {
    this.element = element;
    this.address = element.dataset.live;
    this.isPaused = false;
    this.hasEnded = false;
    this.misses = 0;
    this.note = this.makeNote();
    document.addEventListener("visibilitychange", () => document.hidden || this.soon(0));
    this.soon(PERIOD);
  }

  makeNote() {
    const note = document.createElement("p");
    note.className = "live-note";
    const text = document.createElement("span");
    text.textContent = "Live, every 2 s";
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    button.textContent = "Pause";
    button.addEventListener("click", () => {
      this.isPaused = !this.isPaused;
      button.textContent = this.isPaused ? "Go on" : "Pause";
      text.textContent = this.isPaused ? "Paused" : "Live, every 2 s";
      if (!this.isPaused) this.soon(0);
    });
    note.append(text, button);
    const place = document.querySelector("[data-live-note]");
    if (place) place.replaceChildren(note);
    else this.element.before(note);
    return { all: note, text };
  }

  soon(delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.look(), delay);
  }

  async look() {
    if (this.isPaused || this.hasEnded || document.hidden) return;
    try {
      const answer = await fetch(this.address, { headers: { "x-console-live": "1" } });
      if (answer.status === 401) {
        location.reload();
        return;
      }
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      this.show(await answer.text());
      this.misses = 0;
      this.note.text.textContent = "Live, every 2 s";
    } catch {
      this.misses += 1;
      this.note.text.textContent = "No answer from the server; trying again";
    }
    this.soon(PERIOD * Math.min(1 + this.misses, 8));
  }

  show(text) {
    if (this.isPaused) return;
    const page = new DOMParser().parseFromString(text, "text/html");
    const focused = this.element.contains(document.activeElement) ? document.activeElement.id : "";
    const open = [...this.element.querySelectorAll("details[open][id]")].map((one) => one.id);
    this.element.replaceChildren(...page.body.childNodes);
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    this.element.dispatchEvent(new CustomEvent("live", { bubbles: true }));
    if (this.element.querySelector("[data-live-end]")) {
      this.hasEnded = true;
      this.note.all.hidden = true;
    }
  }
}

for (const button of document.querySelectorAll("[data-theme-toggle]")) themeButton(button);
for (const element of document.querySelectorAll("[data-live]")) new Live(element);
