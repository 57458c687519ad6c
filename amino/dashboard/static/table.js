// The list: as many rows as fit on the screen are elements, however many there are. One stop for the Tab key; arrows walk.

import { toneOf } from "./store.js";

const ROW = 28;
const COLUMNS = [
  ["Name", "order"], ["Class", "kind"], ["State", "state"], ["On", "servers"], ["Managers", "dms"], ["Epoch", "epoch"],
];
const ROLE = { primary: "★", only: "", "in-sync": "", starting: "…", joining: "…", arriving: "…" };

export class Table {
  constructor(root, onSelect) {
    this.onSelect = onSelect;
    this.rows = [];
    this.active = null;
    this.selected = null;
    this.by = "order";
    this.down = false;
    const grid = element("div", "grid");
    grid.setAttribute("role", "grid");
    grid.setAttribute("aria-labelledby", "table-title");
    grid.setAttribute("aria-colcount", COLUMNS.length);
    const head = element("div", "head");
    head.setAttribute("role", "row");
    head.setAttribute("aria-rowindex", 1);
    this.heads = COLUMNS.map(([title, key]) => {
      const cell = element("div");
      cell.setAttribute("role", "columnheader");
      const button = element("button", "", title);
      button.type = "button";
      button.addEventListener("click", () => this.sortBy(key));
      cell.append(button);
      head.append(cell);
      return { cell, button, title, key };
    });
    this.scroll = element("div", "scroll");
    this.scroll.tabIndex = 0;
    this.scroll.setAttribute("role", "rowgroup");
    this.scroll.setAttribute("aria-label", "Microservices: arrow keys walk, Enter opens");
    this.space = element("div", "space");
    this.scroll.append(this.space);
    this.pool = new Map();
    this.scroll.addEventListener("scroll", () => this.draw());
    this.scroll.addEventListener("keydown", (event) => this.key(event));
    this.scroll.addEventListener("focus", () => this.active || this.walk(0, true));
    this.space.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.choose(row.dataset.id);
    });
    grid.append(head, this.scroll);
    root.append(grid);
    this.grid = grid;
    new ResizeObserver(() => this.draw()).observe(this.scroll);
    this.titles();
  }

  show(rows) {
    this.rows = this.sorted(rows);
    this.places = null;
    this.grid.setAttribute("aria-rowcount", rows.length + 1);
    this.space.style.height = `${rows.length * ROW}px`;
    this.draw();
  }

  sorted(rows) {
    const key = this.by, sign = this.down ? -1 : 1;
    const value = key === "servers" || key === "dms" ? (row) => row[key].join() : (row) => row[key];
    return rows.map((row) => [value(row), row]).sort(([a, x], [b, y]) => {
      if (a !== b) return a < b ? -sign : sign;
      return x.order < y.order ? -1 : x.order > y.order ? 1 : 0;
    }).map((pair) => pair[1]);
  }

  sortBy(key) {
    this.down = this.by === key && !this.down;
    this.by = key;
    this.titles();
    this.show(this.rows);
  }

  titles() {
    for (const { cell, button, title, key } of this.heads) {
      const own = key === this.by;
      button.textContent = own ? `${title} ${this.down ? "↓" : "↑"}` : title;
      if (own) cell.setAttribute("aria-sort", this.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - 4);
    const last = Math.min(this.rows.length, first + Math.ceil(this.scroll.clientHeight / ROW) + 8);
    const wanted = new Set();
    for (let place = first; place < last; place++) {
      const row = this.rows[place];
      wanted.add(row.id);
      let box = this.pool.get(row.id);
      if (!box) {
        box = this.make(row.id);
        this.pool.set(row.id, box);
        this.space.append(box);
      }
      this.fill(box, row, place);
    }
    for (const [id, box] of this.pool) {
      if (!wanted.has(id)) {
        box.remove();
        this.pool.delete(id);
      }
    }
    if (this.active && wanted.has(this.active)) this.scroll.setAttribute("aria-activedescendant", `row-${this.active}`);
    else this.scroll.removeAttribute("aria-activedescendant");
  }

  make(id) {
    const box = element("div", "row");
    box.id = `row-${id}`;
    box.dataset.id = id;
    box.setAttribute("role", "row");
    for (let column = 0; column < COLUMNS.length; column++) {
      const cell = element("div");
      cell.setAttribute("role", "gridcell");
      box.append(cell);
    }
    box.children[2].append(element("span", "badge"));
    return box;
  }

  fill(box, row, place) {
    box.style.top = `${place * ROW}px`;
    box.setAttribute("aria-rowindex", place + 2);
    box.setAttribute("aria-selected", row.id === this.selected);
    box.classList.toggle("active", row.id === this.active);
    if (box.row === row) return;
    box.row = row;
    const [name, cls, state, on, dms, epoch] = box.children;
    name.textContent = row.label + (row.shape ? `  (${row.shape})` : "");
    name.title = row.id;
    name.classList.toggle("mono", !row.name);
    cls.textContent = row.kind;
    cls.title = row.cls;
    state.firstChild.textContent = row.state;
    state.firstChild.dataset.tone = toneOf(row.state);
    const marks = new Map();
    for (const one of row.replicas) if (one.server) marks.set(one.server, (marks.get(one.server) || "") + (ROLE[one.role] || ""));
    on.textContent = [...marks].map(([server, mark]) => server + (mark.includes("★") ? " ★" : mark ? " …" : "")).join(", ") || "nowhere";
    dms.textContent = row.dms.join(" → ") || "none";
    dms.title = dms.textContent;
    dms.className = "sub";
    epoch.textContent = row.epoch;
    epoch.className = "sub";
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / ROW) - 1);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      if (this.active) this.choose(this.active);
    } else if (step === undefined) return;
    else this.walk(step);
    event.preventDefault();
  }

  walk(step, softly = false) {
    if (!this.rows.length) return;
    const at = this.rows.findIndex((row) => row.id === this.active);
    const next = at < 0 ? Math.floor(this.scroll.scrollTop / ROW) : Math.min(this.rows.length - 1, Math.max(0, at + step));
    this.active = this.rows[next].id;
    const top = next * ROW, { scrollTop, clientHeight } = this.scroll;
    if (!softly && top < scrollTop) this.scroll.scrollTop = top;
    else if (!softly && top + ROW > scrollTop + clientHeight) this.scroll.scrollTop = top + ROW - clientHeight;
    this.draw();
  }

  choose(id) {
    this.active = id;
    this.onSelect(id);
  }

  select(id) {
    this.selected = id;
    if (id) this.active = id;
    this.draw();
  }
}

function element(kind, name = "", text = "") {
  const made = document.createElement(kind);
  if (name) made.className = name;
  if (text) made.textContent = text;
  return made;
}
