"use strict";
// a click on a heading sorts the table by that column: numbers by size, words by letters, what is missing last
const valueOf = (row, place) => {
  const cell = row.cells[place];
  const text = cell.firstChild ? cell.firstChild.textContent.trim() : "";
  const size = parseFloat(text.replace("\u2212", "-").replace(/\u202f/g, ""));
  return cell.classList.contains("number") ? size : text;
};
const order = (a, b) => {
  if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
  return Number.isNaN(a) ? (Number.isNaN(b) ? 0 : 1) : Number.isNaN(b) ? -1 : a - b;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [valueOf(row, place), row]);
      const missing = ([value]) => typeof value === "number" && Number.isNaN(value);
      rows.sort((a, b) => (missing(a) || missing(b) ? order(a[0], b[0]) : up * order(a[0], b[0])));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
