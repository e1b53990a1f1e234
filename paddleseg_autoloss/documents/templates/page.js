
"use strict";
const number = text => parseFloat(text.replace(/^\[/, ""));
const isMissing = text => ["", "-", "undefined"].includes(text);

// Tables are sorted by a button in each head: numbers by size, texts by the alphabet.
function sort(table, column, direction) {
  const rows = [...table.tBodies[0].rows].map(row => [row.cells[column].textContent.trim(), row]);
  const known = rows.filter(([text]) => !isMissing(text));
  const numeric = known.every(([text]) => /^\[?[-+]?[\d.]/.test(text));
  known.sort(([a], [b]) => direction * (numeric ? number(a) - number(b) : a.localeCompare(b)));
  const missing = rows.filter(([text]) => isMissing(text));
  table.tBodies[0].append(...[...known, ...missing].map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sort(table, column, order === "ascending" ? 1 : -1);
    });
  });
}

// The value of a mark is shown below its chart too, because touch screens have no hover.
for (const event of ["click", "pointerover"]) {
  document.addEventListener(event, ({target}) => {
    const title = target.closest("use")?.querySelector("title");
    if (title) target.closest("figure").querySelector("output").textContent = title.textContent;
  });
}
