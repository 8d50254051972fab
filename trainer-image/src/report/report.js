// What the page can do beyond being read: values at the pointer, tables that sort, a filter for long ones.
"use strict";

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};

for (const plot of document.querySelectorAll("[data-plot]")) {
  const { x, lines } = JSON.parse(plot.dataset.plot);
  const canvas = plot.querySelector(".canvas");
  const tip = make("div", "tip");
  const rule = make("div", "rule");
  canvas.append(rule, tip);
  const hide = () => canvas.classList.remove("pointed");
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("pointercancel", hide);
  const point = (event) => {
    const box = canvas.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * 100;
    const near = (points) => points.reduce((best, p) => (Math.abs(p[0] - at) < Math.abs(best[0] - at) ? p : best));
    const found = lines.map((line) => [line, near(line.points)]);
    const [left, , label] = found[0][1];
    tip.replaceChildren(make("div", "dim", `${x} ${label}`));
    for (const [line, p] of found) {
      const row = make("div", "");
      row.append(make("i", `swatch line-${line.style}`), `${line.name} `, make("b", "", p[3]));
      tip.append(row);
    }
    rule.style.left = `${left}%`;
    tip.style.left = `${left}%`;
    tip.classList.toggle("flip", left > 50);
    canvas.classList.add("pointed");
  };
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerdown", point);
}

for (const table of document.querySelectorAll("[data-sortable]")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent;
  const collator = new Intl.Collator(undefined, { numeric: true });
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = make("button", "sort", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      rows.sort((a, b) => {
        const [left, right] = [value(a, column), value(b, column)];
        const order = column === 0 ? collator.compare(left, right) : left - right;
        return rising ? order : -order;
      });
      body.append(...rows);
    });
  });
  if (rows.length > 20) {
    const filter = make("input", "filter");
    filter.type = "search";
    filter.placeholder = "Find a class";
    filter.setAttribute("aria-label", "Find a class");
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    });
    table.parentElement.before(filter);
  }
}
