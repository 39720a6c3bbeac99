"use strict";
// Filters, sorting and keys for a page that is complete without them.
const PAGE = 24;
const root = document.documentElement;
const get = (id) => document.getElementById(id);
root.classList.add("js");

// Images: two lists choose classes, cells of the matrix and pairs set them.
const cards = [...document.querySelectorAll(".card")];
const form = get("filter");
const more = get("more");
const anyWrong = cards.some((card) => card.classList.contains("wrong"));
let limit = PAGE;

function showCards() {
  const wanted = { true: form.elements.true.value, predicted: form.elements.predicted.value };
  const any = !wanted.true && !wanted.predicted;
  const found = cards.filter((card) =>
    any ? !anyWrong || card.classList.contains("wrong")
        : Object.entries(wanted).every(([key, value]) => !value || card.dataset[key] === value));
  const shown = new Set(found.slice(0, limit));
  for (const card of cards) card.hidden = !shown.has(card);
  more.hidden = shown.size === found.length;
  get("found").textContent = found.length ? `${shown.size} of ${found.length} images` : "no such image on this page";
}

function choose(link) {
  for (const key of ["true", "predicted"]) {
    const list = form.elements[key];
    list.value = link.dataset[key];
  }
  limit = PAGE;
  showCards();
  get("images").scrollIntoView();
  form.elements.true.focus({ preventScroll: true });
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", (event) => {
  if (event.target.name === "saliency") {
    root.classList.toggle("saliency", event.target.checked);
    get("saliency-note").hidden = !event.target.checked;
  } else {
    limit = PAGE;
    showCards();
  }
});
form.addEventListener("reset", () => setTimeout(() => {
  limit = PAGE;
  root.classList.remove("saliency");
  get("saliency-note").hidden = true;
  showCards();
}));
more.addEventListener("click", () => { limit += 4 * PAGE; showCards(); });
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-true]");
  if (link) { event.preventDefault(); choose(link); }
});
showCards();

// Matrix: one stop of the tab key, arrows go from cell to cell over empty ones.
const rows = [...document.querySelectorAll(".matrix tbody tr")].map((row) => [...row.cells].slice(1));
const links = rows.flat().map((cell) => cell.firstElementChild).filter(Boolean);
links.forEach((link, at) => { link.tabIndex = at ? -1 : 0; });
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.querySelector(".matrix").addEventListener("keydown", (event) => {
  const step = STEPS[event.key];
  if (!step || !links.includes(event.target)) return;
  event.preventDefault();
  const cell = event.target.parentElement;
  let row = rows.findIndex((cells) => cells.includes(cell));
  let column = rows[row].indexOf(cell);
  let next;
  do {
    row += step[0];
    column += step[1];
    next = rows[row]?.[column];
  } while (next && !next.firstElementChild);
  if (!next) return;
  event.target.tabIndex = -1;
  next.firstElementChild.tabIndex = 0;
  next.firstElementChild.focus();
});

// Tables: long ones are folded, a click on a heading sorts, a word finds.
for (const button of document.querySelectorAll("[data-unfold]")) {
  const table = get(button.dataset.unfold);
  table.classList.add("folded");
  button.addEventListener("click", () => { table.classList.remove("folded"); button.hidden = true; });
}

for (const table of document.querySelectorAll(".sortable")) {
  const body = table.tBodies[0];
  const length = body.querySelectorAll("tr:not(.rest)").length;
  const headings = [...table.tHead.rows[0].cells];
  const getValue = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const compare = (one, other) =>
    isNaN(one) || isNaN(other) ? one.localeCompare(other, "en", { numeric: true }) : one - other;

  headings.forEach((heading, column) => {
    if (heading.tagName !== "TH") return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const falling = heading.ariaSort === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.ariaSort = falling ? "descending" : "ascending";
      const sorted = [...body.rows].sort((one, other) => compare(getValue(one, column), getValue(other, column)));
      body.replaceChildren(...(falling ? sorted.reverse() : sorted));
      [...body.rows].forEach((row, at) => row.classList.toggle("rest", at >= length));
    });
  });
}

for (const field of document.querySelectorAll("[data-table]")) {
  const body = get(field.dataset.table).tBodies[0];
  const unfold = document.querySelector(`[data-unfold=${field.dataset.table}]`);
  const form = field.form;
  form.addEventListener("submit", (event) => event.preventDefault());
  field.addEventListener("input", () => {
    const word = field.value.trim().toLowerCase();
    let count = 0;
    if (word && unfold) unfold.click();
    for (const row of body.rows) {
      const sought = [...row.querySelectorAll(".sought")].map((cell) => cell.textContent).join("\n");
      row.hidden = !sought.toLowerCase().includes(word);
      count += !row.hidden;
    }
    form.querySelector("output").textContent = word ? `${count} of ${body.rows.length}` : "";
  });
}

// A kind of finding leads to its findings.
for (const link of document.querySelectorAll("a[data-word]")) {
  link.addEventListener("click", () => {
    const field = document.querySelector("[data-table=findings]");
    field.value = link.dataset.word;
    field.dispatchEvent(new Event("input"));
  });
}
