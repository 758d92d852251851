"use strict";
// Sorting: a click on a head sorts its table by that column; the third click brings the first order back.
const number = (cell) => {
  const text = (cell.dataset.value ?? cell.textContent).trim().replace(/\u2212/g, "-").replace(/,/g, "");
  const value = parseFloat(text);
  return Number.isNaN(value) ? null : value;
};
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (x !== null && y !== null) return x - y;
  if (x !== null || y !== null) return x !== null ? -1 : 1;
  return a.textContent.localeCompare(b.textContent);
};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort") || "none"];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      const rows = [...original];
      if (next !== "none") rows.sort((a, b) => compare(a.cells[column], b.cells[column]));
      if (next === "descending") rows.reverse();
      body.append(...rows);
    });
  });
}
// Zooming: a click on a figure opens it; the wheel, the buttons and + - change its size.
const dialog = document.getElementById("zoom");
const large = dialog.querySelector("img");
let scale = 1;
const resize = (factor) => {
  scale = Math.min(8, Math.max(0.2, scale * factor));
  large.style.width = `${large.naturalWidth * scale}px`;
};
large.addEventListener("load", () => {
  if (!dialog.open) dialog.showModal();
  scale = 1;
  resize(Math.min(0.95 * dialog.clientWidth / large.naturalWidth, 0.9 * dialog.clientHeight / large.naturalHeight));
});
const open = (image) => {
  large.alt = image.alt;
  large.src = image.src;
};
for (const image of document.querySelectorAll("img.zoom")) {
  image.tabIndex = 0;
  image.addEventListener("click", () => open(image));
  image.addEventListener("keydown", (event) => event.key === "Enter" && open(image));
}
dialog.addEventListener("wheel", (event) => {
  event.preventDefault();
  resize(event.deltaY < 0 ? 1.2 : 1 / 1.2);
}, { passive: false });
dialog.addEventListener("keydown", (event) => {
  if (event.key === "+") resize(1.25);
  if (event.key === "-") resize(0.8);
});
large.addEventListener("click", () => resize(1.5));
dialog.querySelector(".in").addEventListener("click", () => resize(1.25));
dialog.querySelector(".out").addEventListener("click", () => resize(0.8));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
// A link into something folded opens it.
const unfold = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  if (target) target.scrollIntoView();
};
window.addEventListener("hashchange", unfold);
unfold();
// A table that is wider than the screen says so.
const watched = new ResizeObserver((entries) => {
  for (const { target } of entries) target.classList.toggle("more", target.scrollWidth > target.clientWidth);
});
for (const wide of document.querySelectorAll(".wide")) watched.observe(wide);
// On a small screen the contents start folded.
if (window.matchMedia("(max-width: 72rem)").matches) document.querySelector("nav details").open = false;
