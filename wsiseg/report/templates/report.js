"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const table = document.querySelector("table.slides");
  if (!table) return;
  const slides = [...table.tBodies];
  let sorted = slides;
  let room = 100;  // rows: so many are laid out at once, of those that fit

  // Details are native disclosures without this script; with it a whole row opens and closes.
  for (const slide of slides) {
    const detail = slide.querySelector(".detail");
    if (!detail) continue;
    const button = slide.querySelector(".open");
    detail.hidden = true;
    detail.querySelector("details").open = true;
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      detail.hidden = !detail.hidden;
      button.setAttribute("aria-expanded", String(!detail.hidden));
      button.textContent = detail.hidden ? "Details" : "Hide details";
    });
  }

  const key = (slide, column) => {
    const cell = slide.rows[0].cells[column];
    if (!("value" in cell.dataset)) return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === "" ? null : Number(cell.dataset.value);
  };
  const sort = (heading, up) => {
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = slides.map((slide, place) => ({ slide, place, key: key(slide, heading.cellIndex) }));
    keyed.sort((a, b) => {
      // What is missing comes last in both directions.
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.place - b.place;
      const order = typeof a.key === "number" ? a.key - b.key : collator.compare(a.key, b.key);
      return (up ? order : -order) || a.place - b.place;
    });
    arrange(keyed.map((item) => item.slide));
  };
  const arrange = (order) => {
    sorted = order;
    table.append(...sorted);
    filter();
  };
  const collator = new Intl.Collator();
  const order = document.getElementById("order");  // where there is no room for headings
  order.append(new Option("as they are"));
  for (const button of table.querySelectorAll(".sort")) {
    const heading = button.closest("th");
    button.addEventListener("click", () => sort(heading, heading.getAttribute("aria-sort") !== "ascending"));
    for (const [sign, up] of [["↑", true], ["↓", false]]) {
      const option = new Option(`${button.textContent} ${sign}`);
      option.choose = () => sort(heading, up);
      order.append(option);
    }
  }
  order.addEventListener("input", () => {
    const [option] = order.selectedOptions;
    if (option.choose) option.choose();
    else arrange(slides);
  });

  const search = document.getElementById("search");
  const status = document.getElementById("status");
  const grade = document.getElementById("grade");
  const todo = document.getElementById("todo");
  const more = document.getElementById("more");
  const shown = document.getElementById("shown");
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const slide of sorted) {
      const fits = words.every((word) => slide.dataset.search.includes(word))
        && (!status.value || slide.dataset.status === status.value)
        && (!grade.value || slide.dataset.grade === grade.value)
        && (!todo.value || slide.dataset.todo.split("|").includes(todo.value));
      count += fits;
      slide.hidden = !fits || count > room;
    }
    more.hidden = count <= room;
    shown.value = `${count.toLocaleString("en")} of ${slides.length.toLocaleString("en")} slides`;
  };
  for (const control of [search, status, grade, todo]) control.addEventListener("input", filter);
  document.getElementById("clear").addEventListener("click", () => {
    search.value = status.value = grade.value = todo.value = "";
    filter();
  });
  more.addEventListener("click", () => {
    room = Infinity;
    filter();
  });
  document.addEventListener("click", (event) => {  // a link to a slide shows its row
    const link = event.target.closest('a[href^="#slide-"]');
    const slide = link && document.getElementById(link.hash.slice(1));
    if (slide) slide.hidden = false;
  });
  filter();

  const dialog = document.getElementById("enlarged");
  table.addEventListener("click", (event) => {
    const link = event.target.closest(".thumbnail a, a.picture");
    const modified = event.ctrlKey || event.metaKey || event.shiftKey;
    if (!link || modified || !dialog.showModal) return;
    event.preventDefault();
    const image = link.querySelector("img");
    dialog.querySelector("img").src = image.src;
    dialog.querySelector("img").alt = image.alt;
    dialog.querySelector("span").textContent = link.title;
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
})();
