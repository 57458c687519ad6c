// The page put together: the stream fills the store, and what changed is drawn at most a few times a second.

import { Actions } from "./actions.js";
import { Detail, clock, h } from "./detail.js";
import { Map2 } from "./map.js";
import { STATES, Store, eventTone, number, queryOf, termOf, toneOf, withTerm } from "./store.js";
import { Stream } from "./stream.js";
import { Table } from "./table.js";

const $ = (id) => document.getElementById(id);
const LIST_MS = 250;
const SAY_MS = 3000;
const LINES_MAX = 200;

const store = new Store();
const actions = new Actions($("dialog"), $("toasts"));
let filter = null;
let listDue = 0, sayDue = 0;
const unsaid = new Map();
const changed = new Map(), gone = new Set();
let frame = 0;

const map = new Map2($("map"), $("flights"), $("tip"), store, { select: choose, server: chooseServer, say });
const table = new Table($("table"), choose);
const detail = new Detail($("detail"), $("detail-title"), store, () => actions.token, {
  select: choose, server: chooseServer, filter: setTerm,
  act: (action, question) => actions.act(action, question),
});

// --- what arrives ---------------------------------------------------------------------------------------------------------

const stream = new Stream("api/stream", {
  message(kind, data) {
    if (kind === "hello") {
      map.clear();
      changed.clear();
      gone.clear();
      store.greeted(data);
      actions.possible = data.actions;
      $("unlock").hidden = !data.actions;
      $("pause").hidden = !data.actions;
      unlocked();
      $("events").replaceChildren();
    } else if (kind === "members") store.members(data);
    else if (kind === "rows") {
      store.put(data);
      for (const row of data) {
        changed.set(row.id, row);
        gone.delete(row.id);
      }
    } else if (kind === "gone") {
      store.drop(data);
      for (const id of data) {
        gone.add(id);
        changed.delete(id);
      }
    } else if (kind === "whole") {
      flush();
      store.whole = true;
      map.sort();
      list(true);
    } else if (kind === "history" || kind === "events") happened(data, kind === "events");
    else if (kind === "figures") store.measured(data);
    if (!frame) frame = requestAnimationFrame(flush);
  },
  state(text, refused) {
    $("link").hidden = !text;
    $("link").textContent = text;
    if (refused) askToken();
  },
}, () => actions.token);

async function askToken() {
  if ($("dialog").open) return;
  const given = await actions.ask({
    title: "Token", text: "This dashboard can be reached from other machines, so it asks for the token that its server was started with.",
    button: "Look", fields: [{ name: "token", label: "Token", type: "password", value: "" }],
  });
  if (!given) return;
  sessionStorage.setItem("amino-dashboard-token", given.token.trim());
  unlocked();
  stream.hurry();
}

function flush() {
  cancelAnimationFrame(frame);
  frame = 0;
  store.sweep();
  const rows = [...changed.values()], ids = [...gone];
  changed.clear();
  gone.clear();
  map.update(rows, ids);
  header();
  if (rows.length || ids.length) {
    list();
    if (detail.shown?.kind === "microservice" && (rows.some((row) => row.id === detail.shown.id) || ids.includes(detail.shown.id))) detail.fetch();
  }
}

/** Draw the list soon, and not too often. */
function list(now = false) {
  if (listDue && !now) return;
  clearTimeout(listDue);
  listDue = setTimeout(() => {
    listDue = 0;
    const all = [...store.rows.values()];
    const fitting = filter ? all.filter(filter) : all;
    table.show(fitting);
    $("table-note").textContent = filter ? `${number(fitting.length)} of ${number(all.length)} fit` : `${number(all.length)}`;
    map.draw();
  }, now ? 0 : LIST_MS);
}

function header() {
  const { mood, text } = store.mood();
  $("health").dataset.mood = mood;
  if ($("health-text").textContent !== text) $("health-text").textContent = text;
  if (store.cluster) {
    $("cluster").textContent = store.cluster;
    document.title = `${mood === "good" ? "" : mood === "bad" ? "✖ " : "● "}${store.cluster} — Amino`;
  }
  const replicas = [...store.onServer.values()].reduce((a, b) => a + b, 0);
  $("map-note").textContent = `${number(store.rows.size)} microservices, ${number(replicas)} replicas`;
  $("pause").textContent = store.paused ? "Resume recovery" : "Pause recovery";
  $("pause").setAttribute("aria-pressed", store.paused);
  states();
  options($("by-class"), "Any class", [...store.classes.keys()].sort(), termOf($("query").value, "class"));
  options($("by-server"), "Any server", store.panels().map((one) => one.name).filter(Boolean), termOf($("query").value, "server"));
}

function states() {
  const box = $("states");
  if (!box.children.length) {
    for (const state of STATES) {
      const button = h("button", { type: "button", "data-state": state }, h("span", { class: "swatch", "data-tone": toneOf(state), "aria-hidden": "true" }), h("span", {}));
      button.addEventListener("click", () => setTerm("state", termOf($("query").value, "state") === state ? "" : state));
      box.append(button);
    }
  }
  const chosen = termOf($("query").value, "state");
  for (const button of box.children) {
    const state = button.dataset.state, count = store.counts[state] || 0;
    button.lastChild.textContent = `${state} ${number(count)}`;
    button.classList.toggle("none", !count);
    button.hidden = !count && state !== chosen && !["active", "moving", "recovering", "lost"].includes(state);
    button.setAttribute("aria-pressed", state === chosen);
  }
}

function options(select, none, values, chosen) {
  const made = values.join("\n");
  if (select.dataset.made !== made) {
    select.dataset.made = made;
    select.replaceChildren(new Option(none, ""), ...values.map((value) => new Option(value, value)));
  }
  select.value = values.find((value) => value.toLowerCase() === chosen.toLowerCase()) || "";
}

// --- what happened ----------------------------------------------------------------------------------------------------------

function happened(told, aloud) {
  store.happened(told);
  const box = $("events");
  const added = told.slice(-LINES_MAX).reverse().map(line);
  box.prepend(...added);
  while (box.children.length > LINES_MAX) box.lastChild.remove();
  if (!aloud) return;
  for (const event of told) {
    if (["elected", "replica-added"].includes(event.kind)) continue;
    unsaid.set(event.kind, [...(unsaid.get(event.kind) || []), event]);
  }
  if (!sayDue) sayDue = setTimeout(sayHappened, SAY_MS);
}

function line(event) {
  const parts = [h("b", {}, event.kind)];
  if (event.microservice) parts.push(" ", linkTo(store.rows.get(event.microservice)?.label || event.microservice, () => choose(event.microservice)));
  if (event.server) parts.push(event.microservice ? " on " : " ", linkTo(event.server, () => chooseServer(event.server)));
  if (event.text) parts.push(" ", h("span", { class: "text" }, event.text));
  return h("li", { "data-tone": eventTone(event.kind) }, h("time", { title: new Date(event.at * 1000).toISOString() }, clock(event.at)), h("div", {}, ...parts));
}

function linkTo(text, act) {
  return h("button", { type: "button", class: "linkish", onclick: act }, text);
}

/** Tell those who listen: few words for many events. */
function sayHappened() {
  sayDue = 0;
  const parts = [];
  for (const [kind, events] of unsaid) {
    const one = events[0];
    const who = one.microservice ? store.rows.get(one.microservice)?.label || one.microservice : "";
    parts.push(events.length > 1 ? `${number(events.length)} ${kind}` : [kind, who, one.server].filter(Boolean).join(" "));
  }
  unsaid.clear();
  say(parts.join("; "));
}

function say(text) {
  $("said").textContent = text;
}

// --- choosing -----------------------------------------------------------------------------------------------------------------

function choose(id) {
  map.selected = id;
  map.server = null;
  table.select(id);
  detail.show("microservice", id);
  chosen();
  say(`Details of ${store.rows.get(id)?.label || id} are shown`);
}

function chooseServer(name) {
  map.selected = null;
  map.server = name;
  table.select(null);
  detail.show("server", name);
  chosen();
  say(`Details of server ${name} are shown`);
}

function chosen() {
  $("close").hidden = !detail.shown;
  map.arrange();
}

function setTerm(key, value) {
  $("query").value = withTerm($("query").value, key, value);
  filtered();
}

function filtered() {
  filter = queryOf($("query").value);
  map.filter = filter;
  header();
  list(true);
}

function unlocked() {
  $("unlock").textContent = actions.token ? "Lock actions" : "Unlock actions";
}

$("query").addEventListener("input", filtered);
$("by-class").addEventListener("change", (event) => setTerm("class", event.target.value));
$("by-server").addEventListener("change", (event) => setTerm("server", event.target.value));
$("close").addEventListener("click", () => {
  map.selected = map.server = null;
  table.select(null);
  detail.show("microservice", null);
  chosen();
});
$("unlock").addEventListener("click", async () => {
  if (actions.token) actions.lock();
  else if (await actions.unlock()) stream.hurry();
  unlocked();
});
$("pause").addEventListener("click", () => actions.act({ action: "pause", paused: !store.paused }, store.paused
  ? { title: "Resume recovery", text: "What was lost meanwhile is recovered now.", button: "Resume" }
  : { title: "Pause recovery", text: "Nothing is recovered or balanced by itself until you resume; calls to what is lost fail.", button: "Pause", danger: true }));
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, dialog")) {
    if (event.key === "Escape" && event.target === $("query")) {
      $("query").value = "";
      filtered();
    }
    return;
  }
  if (event.key === "/" && !event.ctrlKey && !event.metaKey) {
    $("query").focus();
    event.preventDefault();
  }
});

// --- light and dark -------------------------------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = name;
  $("theme").textContent = `Theme: ${name}`;
  map.repaint();
}
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(localStorage.getItem("amino-theme") || "auto") + 1) % THEMES.length];
  localStorage.setItem("amino-theme", next);
  theme(next);
});
theme(THEMES.includes(localStorage.getItem("amino-theme")) ? localStorage.getItem("amino-theme") : "auto");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => map.repaint());
stream.start();
