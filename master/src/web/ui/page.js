// Keeps the parts of a page up to date: the server sends those that changed, made just as the page itself.
// Without this file each page is complete, and reloads itself.
"use strict";
(() => {
  const live = document.body.dataset.live;
  const told = document.getElementById("live");
  const say = (words) => { if (told && told.textContent !== words) told.textContent = words; };

  // Makes `old` look like `fresh` and keeps what is the same, so that focus, scrolling and opened details stay.
  const morph = (old, fresh) => {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(fresh);
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(old.nodeName === "DETAILS" && name === "open")) old.removeAttribute(name);
    }
    for (const { name, value } of [...fresh.attributes]) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const olds = [...old.childNodes];
    const freshes = [...fresh.childNodes];
    freshes.forEach((child, index) => {
      if (olds[index]) morph(olds[index], child);
      else old.appendChild(child);
    });
    olds.slice(freshes.length).forEach((child) => child.remove());
  };

  let source = null;
  const close = () => { if (source) { source.close(); source = null; } };
  const open = () => {
    if (!live || source || document.hidden) return;
    source = new EventSource(live);
    source.addEventListener("open", () => say("Live."));
    source.addEventListener("part", (event) => {
      const part = JSON.parse(event.data);
      const old = document.getElementById(part.id);
      const holder = document.createElement("template");
      holder.innerHTML = part.html;
      if (old && holder.content.firstElementChild) morph(old, holder.content.firstElementChild);
    });
    source.addEventListener("trouble", (event) => say(JSON.parse(event.data)));
    source.addEventListener("error", () => {
      say("The master does not answer: what is shown is old. Asking again.");
      if (source && source.readyState === EventSource.CLOSED) { close(); setTimeout(open, 3000); }
    });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();

  // Copies the text that a button names.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copy);
    navigator.clipboard.writeText(text.textContent).then(() => { button.textContent = "Copied"; });
  });
})();
