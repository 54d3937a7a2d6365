"use strict";
// Tables sort by the buttons in their heads; cells and points tell about themselves when pointed at, tapped or focused.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), table = head.closest("table"), column = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = table.tBodies[0];
    const keyed = Array.from(body.rows, (row) => ({ row, key: row.cells[column].dataset.sort }));
    const numeric = keyed.every(({ key }) => key === "" || !Number.isNaN(Number(key)));
    keyed.sort((a, b) => {
      if (a.key === "" || b.key === "") return (a.key === "") - (b.key === "");  // what is missing stays last
      const order = numeric ? Number(a.key) - Number(b.key) : a.key.localeCompare(b.key);
      return up ? order : -order;
    });
    body.append(...keyed.map(({ row }) => row));
  });
}

function tell(item) {
  const line = item.closest("figure").querySelector(".readout");
  if (line.textContent === item.dataset.tip) return;
  line.textContent = item.dataset.tip;
  line.classList.add("on");
}

function walk(event, group, items) {
  const here = items.indexOf(document.activeElement);
  if (here < 0) return;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  let next = step === undefined ? undefined : items[here + step];
  if (step === undefined && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    if (group.tagName !== "TABLE") {
      next = items[here + (event.key === "ArrowDown" ? 1 : -1)];
    } else {
      let row = items[here].parentElement;
      do {
        row = event.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
        const cell = row === null ? null : row.cells[items[here].cellIndex];
        next = cell !== null && cell !== undefined && cell.dataset.tip !== undefined ? cell : undefined;
      } while (row !== null && next === undefined);
    }
  } else if (step === undefined) {
    return;
  }
  event.preventDefault();
  if (next === undefined) return;
  items[here].tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

for (const group of document.querySelectorAll("[data-roving]")) {
  const items = Array.from(group.querySelectorAll("[data-tip]"));
  if (items.length === 0) continue;
  items[0].tabIndex = 0;
  group.addEventListener("keydown", (event) => walk(event, group, items));
  for (const item of items) {
    for (const kind of ["mouseenter", "focus", "click"]) item.addEventListener(kind, () => tell(item));
  }
}

// What is wider than its box says so.
function measure() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.previousElementSibling.hidden = box.scrollWidth <= box.clientWidth + 1;
  }
}
addEventListener("resize", measure);
measure();
