// The map: a panel for each server, in it a mark for each replica; what moves is seen to move. Marks have labels while there is room.

import { NOWHERE, number, toneOf } from "./store.js";

const GAP = 10, PAD = 8, HEAD = 54, TITLE = 15, BANDS_MAX = 12;
const FLIGHT_MS = 900, FLASH_MS = 6000, FLIGHTS_MAX = 60;
const SQUARES = [22, 18, 15, 13, 11, 9, 8, 7, 6, 5, 4, 3, 2];
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Map2 {
  /** on: {select(row), server(name), say(text)}. */
  constructor(root, overlay, tip, store, on) {
    Object.assign(this, { root, overlay, tip, store, on });
    this.panels = new Map();
    this.placed = new Map(); // row id -> [{panel, band, slot, key}]
    this.flashes = new Map(); // "id path server" -> until when it shows
    this.flights = [];
    this.filter = null;
    this.selected = null;
    this.server = null;
    this.fit = { labels: false, size: 10, pitch: 12, columns: 1, titles: false };
    this.due = false;
    this.colors = {};
    new ResizeObserver(() => this.layout()).observe(root);
    root.addEventListener("scroll", () => this.draw());
  }

  // --- what is where ----------------------------------------------------------------------------------------------

  /** Take over rows that changed or went, and show what moved. */
  update(changed, gone) {
    const left = new Map();
    for (const id of gone) this.remove(id, left);
    for (const row of changed) {
      this.remove(row.id, left, new Set(row.replicas.map((one) => keyOf(row, one) + one.server)));
      this.place(row);
    }
    this.arrange();
    const now = performance.now(), flights = [];
    for (const { row, path, from, to, kind } of this.store.deltas.splice(0)) {
      this.flashes.set(`${row.id} ${path} ${to}`, now + FLASH_MS);
      if (from === undefined || from === to || still.matches) continue;
      const start = left.get(`${row.id} ${path} ${from}`) || this.panels.get(from);
      if (start) flights.push({ start, row, path, to, began: now, hot: kind === "failover" });
    }
    const stride = Math.max(1, Math.ceil(flights.length / Math.max(1, FLIGHTS_MAX - this.flights.length)));
    this.flights.push(...flights.filter((_, place) => place % stride === 0)); // of many, some
    this.draw();
  }

  remove(id, left, kept) {
    const places = this.placed.get(id);
    if (!places) return;
    const rest = [];
    for (const place of places) {
      if (kept?.has(place.key + place.panel.name)) {
        rest.push(place);
        continue;
      }
      const cell = place.band.cells[place.slot];
      left.set(`${id} ${cell.one.path} ${place.panel.name}`, place);
      place.band.cells[place.slot] = null;
      place.band.free.push(place.slot);
    }
    if (rest.length) this.placed.set(id, rest);
    else this.placed.delete(id);
  }

  place(row) {
    const places = this.placed.get(row.id) || [];
    const known = new Map(places.map((place) => [place.key + place.panel.name, place]));
    for (const one of row.replicas) {
      const key = keyOf(row, one);
      const there = known.get(key + one.server);
      if (there) {
        const cell = there.band.cells[there.slot];
        Object.assign(cell, { row, one });
        continue;
      }
      const panel = this.panelOf(one.server);
      const band = bandOf(panel, row.kind);
      const slot = band.free.length ? band.free.pop() : band.cells.length;
      band.cells[slot] = { row, one };
      places.push({ panel, band, slot, key });
    }
    this.placed.set(row.id, places);
  }

  /** Put all marks in order of class and name, once the picture is whole; later ones take what places there are. */
  sort() {
    this.placed.clear();
    for (const panel of this.panels.values()) {
      for (const band of panel.bands.values()) {
        band.cells = band.cells.filter(Boolean).sort(order);
        band.free = [];
        band.cells.forEach((cell, slot) => {
          const places = this.placed.get(cell.row.id) || [];
          places.push({ panel, band, slot, key: keyOf(cell.row, cell.one) });
          this.placed.set(cell.row.id, places);
        });
      }
    }
    this.layout();
  }

  clear() {
    for (const panel of this.panels.values()) panel.box.remove();
    this.panels.clear();
    this.placed.clear();
    this.flashes.clear();
    this.flights = [];
  }

  panelOf(name) {
    let panel = this.panels.get(name);
    if (panel) return panel;
    const box = document.createElement("div");
    const head = document.createElement("button");
    const title = document.createElement("span"), state = document.createElement("span"), load = document.createElement("span");
    const cells = document.createElement("div");
    const canvas = document.createElement("canvas");
    box.className = "panel";
    head.type = "button";
    title.className = "name";
    state.className = "state";
    load.className = "load";
    cells.className = "cells";
    title.textContent = name || "On no server";
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-roledescription", "map of replicas");
    head.append(title, state, load);
    cells.append(canvas);
    box.append(head, cells);
    panel = { name, box, head, state, load, host: cells, canvas, bands: new Map(), cursor: null, width: 0, height: 0 };
    head.addEventListener("click", () => name !== NOWHERE && this.on.server(name));
    canvas.addEventListener("mousemove", (event) => this.hover(panel, event));
    canvas.addEventListener("mouseleave", () => this.hover(null));
    canvas.addEventListener("click", (event) => {
      const cell = this.hit(panel, event);
      if (cell) this.on.select(cell.row.id);
    });
    canvas.addEventListener("keydown", (event) => this.key(panel, event));
    canvas.addEventListener("blur", () => this.leave(panel));
    this.panels.set(name, panel);
    return panel;
  }

  // --- where panels are ---------------------------------------------------------------------------------------------

  /** Make panels of the servers there are, and drop those of servers that are gone. */
  arrange() {
    const wanted = this.store.panels();
    const names = new Set(wanted.map((one) => one.name));
    for (const [name, panel] of this.panels) {
      if (names.has(name)) continue;
      panel.box.remove();
      this.panels.delete(name);
    }
    wanted.forEach((server, place) => {
      const panel = this.panelOf(server.name);
      if (this.root.children[place] !== panel.box) this.root.insertBefore(panel.box, this.root.children[place] || null);
      this.title(panel, server);
    });
    this.layout();
  }

  title(panel, server) {
    const used = this.store.onServer.get(panel.name) || 0;
    const name = panel.name;
    const state = name === NOWHERE ? "lost, or waiting for a place" : !server.live ? "lost" : server.cordoned ? `cordoned: ${server.cordoned}` : "";
    const rate = this.store.rates.get(name);
    const load = [`${number(used)}${server.capacity ? ` of ${number(server.capacity)}` : ""} replica${used === 1 ? "" : "s"}`];
    if (server.live && server.slots) load.push(`leads ${server.slots}`);
    if (server.live && rate !== undefined) load.push(`${number(Math.round(rate))} calls/s`);
    panel.box.className = ["panel", name === NOWHERE ? "nowhere" : !server.live ? "lost" : server.cordoned ? "cordoned" : "",
      this.server === name ? "selected" : ""].join(" ");
    put(panel.state, state || server.labels?.region || "");
    put(panel.load, load.join(" · "));
    panel.canvas.setAttribute("aria-label", `${name || "On no server"}${state ? `, ${state}` : ""}: ${load[0]}. Arrow keys walk, Enter opens.`);
  }

  layout() {
    const width = this.root.clientWidth - 2 * GAP, height = this.root.clientHeight - 2 * GAP;
    if (width <= 0 || !this.panels.size) return;
    for (const panel of this.panels.values()) {
      for (const [kind, band] of panel.bands) {
        if (band.free.length === band.cells.length) panel.bands.delete(kind);
      }
      panel.bands = new Map([...panel.bands].sort(([a], [b]) => cmp(a, b)));
    }
    const loads = [...this.panels.values()].map((panel) => [...panel.bands.values()].map((band) => band.cells.length));
    let best = null;
    for (let columns = 1; columns <= this.panels.size; columns++) {
      const lines = Math.ceil(this.panels.size / columns);
      const w = (width - GAP * (columns - 1)) / columns, h = (height - GAP * (lines - 1)) / lines;
      if (columns > 1 && w < 190) break;
      const fit = fitted(loads, Math.floor(w) - 2 * PAD - 2, Math.max(60, Math.floor(h) - HEAD - 2 * PAD - 2));
      const score = fit.score - Math.abs(Math.log(w / Math.max(h, 60) / 1.3)) * 2;
      if (!best || score > best.score) best = { ...fit, score, across: columns, lines };
    }
    this.fit = best;
    for (const panel of this.panels.values()) this.stack(panel);
    this.root.closest("main").classList.toggle("dense", !best.labels && best.size < 8);
    const columns = `repeat(${best.across}, minmax(0, 1fr))`, rows = `repeat(${best.lines}, minmax(96px, 1fr))`;
    if (this.root.style.gridTemplateColumns !== columns) this.root.style.gridTemplateColumns = columns;
    if (this.root.style.gridTemplateRows !== rows) this.root.style.gridTemplateRows = rows;
    this.draw();
  }

  /** Say where each band of a panel begins: below a title of its own, or right behind the one before. */
  stack(panel) {
    const { columns, pitch, titles } = this.fit;
    let top = PAD, before = 0;
    for (const band of panel.bands.values()) {
      band.top = top;
      band.before = titles ? 0 : before;
      before += band.cells.length;
      if (titles) top += TITLE + Math.ceil(band.cells.length / columns) * pitch + 3;
    }
  }

  // --- drawing ------------------------------------------------------------------------------------------------------

  repaint() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["ok", "busy", "bad", "held", "gone", "flash", "select", "text", "soft", "card", "line", "sunk"]) {
      this.colors[name] = style.getPropertyValue(`--${name}`).trim();
    }
    this.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    this.draw();
  }

  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.paint();
    });
  }

  paint() {
    if (!this.colors.ok) return;
    const now = performance.now();
    for (const [mark, until] of this.flashes) if (until < now) this.flashes.delete(mark);
    for (const panel of this.panels.values()) this.paintPanel(panel);
    this.paintOver(now);
    if (this.flights.length) this.draw();
    else if (this.flashes.size && !this.fading) {
      this.fading = setTimeout(() => {
        this.fading = null;
        this.draw();
      }, 400);
    }
  }

  paintPanel(panel) {
    const ratio = window.devicePixelRatio || 1;
    const width = panel.host.clientWidth, height = panel.host.clientHeight;
    if (panel.width !== width || panel.height !== height || panel.ratio !== ratio) {
      Object.assign(panel, { width, height, ratio });
      panel.canvas.width = Math.round(width * ratio);
      panel.canvas.height = Math.round(height * ratio);
      panel.canvas.style.width = `${width}px`;
      panel.canvas.style.height = `${height}px`;
    }
    const c = panel.canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    c.font = this.font;
    c.textBaseline = "middle";
    for (const [kind, band] of panel.bands) {
      if (this.fit.titles) {
        c.globalAlpha = 1;
        c.fillStyle = this.colors.soft;
        c.fillText(this.clip(c, `${kind}  ${number(band.cells.length - band.free.length)}`, width - 2 * PAD), PAD, band.top + 7);
      }
      for (let slot = 0; slot < band.cells.length; slot++) {
        const cell = band.cells[slot];
        if (!cell) continue;
        const { x, y } = this.spot(band, slot);
        if (y > height) break;
        c.globalAlpha = !this.filter || this.filter(cell.row) ? 1 : 0.13;
        if (this.fit.labels) this.chip(c, cell, x, y);
        else this.mark(c, cell, x, y, this.fit.size);
        this.ring(c, panel, cell, x, y);
      }
    }
    c.globalAlpha = 1;
  }

  ring(c, panel, cell, x, y) {
    const pointed = panel.cursor === cell, chosen = cell.row.id === this.selected;
    if (!pointed && !chosen && !(this.flashes.size && this.flashes.has(`${cell.row.id} ${cell.one.path} ${panel.name}`))) return;
    if (!pointed && !chosen && this.fit.size <= 6) {
      c.globalAlpha = cell.one.role === "in-sync" ? 0.6 : 1; // there is no room for a ring
      c.fillStyle = this.colors.flash;
      c.fillRect(x, y, this.fit.size, this.fit.size);
      return;
    }
    const w = this.fit.labels ? this.fit.wide : this.fit.size, h = this.fit.labels ? 24 : this.fit.size;
    c.globalAlpha = 1;
    c.lineWidth = pointed ? 3 : this.fit.size <= 5 ? 1.5 : 2;
    c.strokeStyle = chosen || pointed ? this.colors.select : this.colors.flash;
    const around = (chosen || pointed) && this.fit.size < 9 ? 4 : 1; // small marks are found by a ring at a distance
    c.strokeRect(x - around, y - around, w + 2 * around, h + 2 * around);
  }

  mark(c, cell, x, y, size) {
    const tone = this.colors[toneOf(cell.one.gone ? "moving" : cell.row.state === "active" ? "active" : cell.one.state)];
    const role = cell.one.role;
    if (role === "only" || role === "primary") {
      c.fillStyle = tone;
      c.fillRect(x, y, size, size);
    } else if (role === "in-sync") {
      const alpha = c.globalAlpha;
      c.fillStyle = tone;
      c.globalAlpha = alpha * 0.38;
      c.fillRect(x, y, size, size);
      c.globalAlpha = alpha;
    } else {
      c.strokeStyle = tone;
      c.lineWidth = size > 8 ? 2 : 1;
      c.setLineDash(size > 8 ? [3, 2] : []);
      c.strokeRect(x + 1, y + 1, size - 2, size - 2);
      c.setLineDash([]);
    }
  }

  chip(c, cell, x, y) {
    const wide = this.fit.wide;
    c.fillStyle = this.colors.card;
    c.strokeStyle = this.colors.line;
    c.lineWidth = 1;
    c.beginPath();
    c.roundRect(x + 0.5, y + 0.5, wide - 1, 23, 4);
    c.fill();
    c.stroke();
    this.mark(c, cell, x + 6, y + 6, 12);
    const path = cell.one.path === "/" ? "" : cell.one.path;
    let room = wide - 30;
    if (path) {
      c.fillStyle = this.colors.soft;
      const w = c.measureText(path).width;
      c.fillText(path, x + wide - 7 - w, y + 12.5);
      room -= w + 5;
    }
    c.fillStyle = this.colors.text;
    c.fillText(this.clip(c, cell.row.label, room), x + 23, y + 12.5);
  }

  clip(c, text, room) {
    if (c.measureText(text).width <= room) return text;
    let low = 0, high = text.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (c.measureText(`${text.slice(0, middle)}…`).width <= room) low = middle;
      else high = middle - 1;
    }
    return `${text.slice(0, low)}…`;
  }

  spot(band, slot) {
    const { labels, pitch, wide, columns, titles } = this.fit;
    const place = band.before + slot, column = place % columns, line = Math.floor(place / columns);
    return { x: PAD + column * (labels ? wide + 6 : pitch), y: band.top + (titles ? TITLE : 0) + line * pitch };
  }

  /** The middle of a mark, or of a panel's title, on the overlay. */
  middle(place) {
    const base = this.overlay.getBoundingClientRect();
    if (!place.band) {
      const box = place.box.getBoundingClientRect();
      return { x: box.left - base.left + box.width / 2, y: box.top - base.top + 18 };
    }
    const box = place.panel.canvas.getBoundingClientRect();
    const { x, y } = this.spot(place.band, place.slot);
    const half = this.fit.labels ? 12 : this.fit.size / 2;
    return { x: box.left - base.left + x + half, y: box.top - base.top + y + half };
  }

  paintOver(now) {
    const ratio = window.devicePixelRatio || 1;
    const c = this.overlay.getContext("2d");
    const width = this.overlay.clientWidth, height = this.overlay.clientHeight;
    if (this.overlay.width !== Math.round(width * ratio) || this.overlay.height !== Math.round(height * ratio)) {
      this.overlay.width = Math.round(width * ratio);
      this.overlay.height = Math.round(height * ratio);
    }
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    const places = this.selected ? this.placed.get(this.selected) || [] : [];
    if (places.length > 1) {
      c.strokeStyle = this.colors.select;
      c.globalAlpha = 0.75;
      c.lineWidth = 1.5;
      c.setLineDash([4, 3]);
      const spots = places.map((place) => this.middle(place));
      const hub = { x: avg(spots.map((s) => s.x)), y: avg(spots.map((s) => s.y)) };
      for (const spot of spots) line(c, spots.length === 2 ? spots[0] : hub, spot);
      c.setLineDash([]);
      c.globalAlpha = 1;
    }
    this.flights = this.flights.filter((flight) => now - flight.began < FLIGHT_MS);
    for (const flight of this.flights) {
      const place = this.placed.get(flight.row.id)?.find((one) => one.panel.name === flight.to && one.key.startsWith(`${flight.path} `));
      if (!place || (flight.start.band && !flight.start.panel.canvas.isConnected)) continue;
      const from = this.middle(flight.start), to = this.middle(place);
      const t = (now - flight.began) / FLIGHT_MS, e = t < 0.5 ? 2 * t * t : 1 - 2 * (1 - t) * (1 - t);
      const at = { x: from.x + (to.x - from.x) * e, y: from.y + (to.y - from.y) * e - 26 * Math.sin(Math.PI * e) };
      c.strokeStyle = flight.hot ? this.colors.bad : this.colors.flash;
      c.fillStyle = c.strokeStyle;
      c.globalAlpha = 0.55 * (1 - t * 0.5);
      c.lineWidth = 1.5;
      line(c, from, at);
      c.globalAlpha = 1;
      c.beginPath();
      c.arc(at.x, at.y, this.fit.labels ? 6 : this.fit.size > 6 ? 4 : 2.5, 0, 7);
      c.fill();
    }
  }

  // --- pointing -----------------------------------------------------------------------------------------------------

  /** The cell at a point, null if there is none. */
  hit(panel, event) {
    const box = panel.canvas.getBoundingClientRect();
    const { labels, pitch, wide, columns, titles } = this.fit;
    const left = event.clientX - box.left - PAD + 1, down = event.clientY - box.top + 1;
    const column = Math.floor(left / (labels ? wide + 6 : pitch));
    if (column < 0 || column >= columns) return null;
    for (const band of panel.bands.values()) {
      const line = Math.floor((down - band.top - (titles ? TITLE : 0)) / pitch);
      const slot = line * columns + column - band.before;
      if (line >= 0 && slot >= 0 && slot < band.cells.length && band.cells[slot]) return band.cells[slot];
    }
    return null;
  }

  hover(panel, event) {
    const cell = panel ? this.hit(panel, event) : null;
    this.tip.hidden = !cell;
    if (!panel) return;
    panel.canvas.style.cursor = cell ? "pointer" : "default";
    if (!cell) return;
    this.tip.textContent = words(cell, panel.name);
    const wide = this.tip.offsetWidth, high = this.tip.offsetHeight;
    this.tip.style.left = `${Math.min(event.clientX + 14, innerWidth - wide - 8)}px`;
    this.tip.style.top = `${Math.min(event.clientY + 16, innerHeight - high - 8)}px`;
  }

  key(panel, event) {
    const across = this.fit.columns;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Enter" || event.key === " ") {
      if (panel.cursor) this.on.select(panel.cursor.row.id);
    } else if (event.key === "Escape") this.leave(panel);
    else if (step === undefined) return;
    else {
      const cells = [...panel.bands.values()].flatMap((band) => band.cells.filter(Boolean));
      const at = cells.indexOf(panel.cursor);
      panel.cursor = cells[Math.max(0, Math.min(cells.length - 1, at < 0 ? 0 : at + step))] || null;
      if (panel.cursor) this.on.say(words(panel.cursor, panel.name));
      this.draw();
    }
    event.preventDefault();
  }

  leave(panel) {
    panel.cursor = null;
    this.draw();
  }
}

function bandOf(panel, kind) {
  if (!panel.bands.has(kind)) panel.bands.set(kind, { cells: [], free: [], top: 0, before: 0 });
  return panel.bands.get(kind);
}

const keyOf = (row, one) => `${one.path} ${one.id} `;
const order = (a, b) => cmp(a.row.kind, b.row.kind) || cmp(a.row.order, b.row.order) || cmp(a.one.path, b.one.path);
const cmp = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
const avg = (list) => list.reduce((a, b) => a + b, 0) / list.length;

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function line(c, from, to) {
  c.beginPath();
  c.moveTo(from.x, from.y);
  c.lineTo(to.x, to.y);
  c.stroke();
}

function words({ row, one }, server) {
  const path = one.path === "/" ? "" : ` ${one.path}`;
  const role = { only: "only copy", primary: "primary", "in-sync": "replica in sync" }[one.role] || one.role;
  return `${row.label}${path}\n${row.kind} · ${one.state}\n${role} on ${server || "no server"}, epoch ${one.epoch}`;
}

/**
 * The largest marks with which everything fits: with labels if they do, else by class below titles, else without those.
 * `loads`: for each panel, how many marks each of its bands has.
 */
function fitted(loads, w, h) {
  const most = Math.max(1, ...loads.map((bands) => bands.reduce((a, b) => a + b, 0)));
  for (let columns = 1; columns <= Math.floor((w + 6) / 96); columns++) {
    if (Math.ceil(most / columns) * 30 > h + 6) continue;
    const wide = Math.min(230, Math.floor((w - 6 * (columns - 1)) / columns));
    return { labels: true, titles: false, wide, columns, pitch: 30, size: 24, score: 60 + wide / 20 };
  }
  const kinds = Math.max(...loads.map((bands) => bands.length));
  for (const titles of kinds > 1 && kinds <= BANDS_MAX ? [true, false] : [false]) {
    for (const size of SQUARES) {
      const pitch = size >= 6 ? size + 2 : size + 1;
      const columns = Math.floor((w + pitch - size) / pitch);
      const high = (bands) => (titles ? bands.reduce((sum, count) => sum + TITLE + 3 + Math.ceil(count / columns) * pitch, 0)
        : Math.ceil(bands.reduce((a, b) => a + b, 0) / columns) * pitch);
      if (loads.every((bands) => high(bands) <= h + pitch - size)) return { labels: false, titles, wide: size, columns, pitch, size, score: size };
    }
  }
  return { labels: false, titles: false, wide: 2, columns: Math.max(1, Math.floor(w / 3)), pitch: 3, size: 2, score: 0 };
}
