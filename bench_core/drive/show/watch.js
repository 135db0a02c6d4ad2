"use strict";
// Asks what goes on, and loads the page again when there is a newer one, with what its reader has chosen.
(() => {
  const EVERY_MS = 3000, KEPT = "llm-bench watch";
  const home = document.getElementById("watch"), mine = Number(home.dataset.page);
  let misses = 0, folder = "";

  function made(name, text, className) {
    const element = document.createElement(name);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  function tell(state) {
    const list = document.createElement("dl");
    for (const [label, words] of state.lines) list.append(made("dt", label), made("dd", words));
    const parts = [made("p", state.heading, "head"), list];
    if (state.problem) parts.push(made("p", state.problem, "bad"));
    if (state.ended.length) {
      const ended = document.createElement("details"), cells = document.createElement("ul");
      ended.open = home.querySelector("details")?.open ?? mine === 0;
      cells.append(...state.ended.map((words) => made("li", words)));
      ended.append(made("summary", `Cells that have ended: ${state.ended.length}`), cells);
      parts.push(ended);
    }
    home.replaceChildren(...parts);
  }

  const fields = () => [...document.querySelectorAll("input, select")].map((field, place) => [field.id || `${field.name} ${place}`, field]);
  const folds = () => [...document.querySelectorAll("main details, nav details")].filter((one) => !home.contains(one))
    .map((one, place) => [one.querySelector("summary")?.textContent || String(place), one]);

  function keep() {
    const kept = {y: scrollY, theme: document.documentElement.dataset.theme,
      fields: fields().map(([key, field]) => [key, field.type === "checkbox" ? field.checked : field.value]),
      folds: folds().map(([key, one]) => [key, one.open])};
    if (typeof state !== "undefined") {
      kept.point = state.point;
      kept.picked = [...state.picked];
      kept.sorting = {...sorting};
    }
    sessionStorage.setItem(KEPT, JSON.stringify(kept));
  }

  function restore() {
    const text = sessionStorage.getItem(KEPT);
    if (!text) return;
    sessionStorage.removeItem(KEPT);
    const kept = JSON.parse(text), values = new Map(kept.fields), opened = new Map(kept.folds);
    if (kept.theme && kept.theme !== document.documentElement.dataset.theme) {
      document.getElementById("theme")?.click();
      if (document.documentElement.dataset.theme !== kept.theme) document.getElementById("theme")?.click();
    }
    if (typeof state !== "undefined" && data.cells.length) {
      if (kept.sorting) Object.assign(sorting, kept.sorting);
      for (const key of kept.picked ?? []) if (byKey.has(key)) state.picked.add(key);
      if (words.has(kept.point)) choosePoint(kept.point);
    }
    for (const [key, field] of fields()) {
      if (!values.has(key)) continue;
      if (field.type === "checkbox") field.checked = values.get(key); else field.value = values.get(key);
      field.dispatchEvent(new Event("input", {bubbles: true}));
      field.dispatchEvent(new Event("change", {bubbles: true}));
    }
    if (typeof fillTable === "function" && data.cells.length) fillTable();
    for (const [key, one] of folds()) if (opened.has(key)) one.open = opened.get(key);
    scrollTo(0, kept.y);
    setTimeout(() => scrollTo(0, kept.y), 400); // figures that are drawn late move what is below them
  }

  async function ask() {
    if (!document.hidden) {
      try {
        const answer = await fetch("/state", {cache: "no-store"});
        const told = await answer.json();
        misses = 0;
        folder = told.folder;
        tell(told);
        const typing = document.activeElement?.matches("input, select");
        if (told.page > mine && !typing) {
          keep();
          location.reload();
          return;
        }
      } catch {
        misses += 1;
        if (misses === 3) home.replaceChildren(made("p", `No answer any more: the run has ended${folder ? `; its report is ${folder}/report.html` : ""}.`, "head"));
      }
    }
    setTimeout(ask, misses < 3 ? EVERY_MS : 5 * EVERY_MS);
  }

  document.addEventListener("visibilitychange", () => { if (!document.hidden && misses >= 3) misses = 0; });
  restore();
  ask();
})();
