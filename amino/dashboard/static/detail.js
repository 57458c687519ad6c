// The side panel: everything of one microservice or one server, and what can be done with it.

import { number, toneOf } from "./store.js";

const REFRESH_MS = 2000;

export class Detail {
  /** on: {select(id), server(name), filter(key, value), act(action, question)}. */
  constructor(root, title, store, token, on) {
    Object.assign(this, { root, heading: title, store, token, on });
    this.shown = null;
    this.told = null;
    this.failed = "";
    this.asked = 0;
    setInterval(() => document.hidden || this.shown?.kind !== "microservice" || this.fetch(), REFRESH_MS);
    setInterval(() => document.hidden || this.shown?.kind !== "server" || this.draw(), REFRESH_MS);
  }

  show(kind, id) {
    this.shown = id ? { kind, id } : null;
    this.told = null;
    this.failed = "";
    this.draw();
    if (kind === "microservice" && id) this.fetch();
  }

  async fetch() {
    const { id } = this.shown;
    const turn = ++this.asked;
    try {
      const token = this.token();
      const answer = await fetch(`api/microservices/${encodeURIComponent(id)}`, {
        cache: "no-store", credentials: "omit", headers: token ? { Authorization: `Bearer ${token}` } : {},
      });
      const told = await answer.json();
      if (turn !== this.asked || this.shown?.id !== id) return;
      this.failed = answer.ok ? "" : told.error;
      if (answer.ok) this.told = told;
    } catch {
      if (turn === this.asked) this.failed = "The server does not answer now; this is what it said last.";
    }
    this.draw();
  }

  draw() {
    const held = document.activeElement?.dataset?.hold;
    const top = this.root.scrollTop;
    const parts = !this.shown ? [h("p", { class: "empty" }, "Choose a microservice or a server: on the map, in the list, or among the events.")]
      : this.shown.kind === "server" ? this.server(this.shown.id) : this.microservice(this.shown.id);
    this.heading.textContent = !this.shown ? "Details" : this.shown.kind === "server" ? "Server" : "Microservice";
    this.root.replaceChildren(...parts.filter(Boolean));
    this.root.scrollTop = top;
    if (held) this.root.querySelector(`[data-hold="${held}"]`)?.focus();
  }

  // --- a microservice ---------------------------------------------------------------------------------------------------

  microservice(id) {
    const row = this.store.rows.get(id);
    const told = this.told?.description;
    if (!row && !told) return [h("p", { class: "empty" }, this.failed || (this.store.whole ? "It is deleted." : "Loading …"))];
    const spec = told?.record.spec;
    const parts = [
      h("p", { class: "who" }, row?.label || spec?.name || id),
      h("dl", { class: "facts" },
        ...fact("State", h("span", { class: "badge", "data-tone": toneOf(row?.state || "deleting") }, row ? row.state : "deleted")),
        ...fact("Class", h("code", {}, row?.cls || spec?.class)),
        ...fact("Id", h("code", {}, id)),
        ...fact("Application", row?.application),
        ...fact("Labels", Object.entries(row?.labels || {}).map((pair) => pair.join("=")).join(", ")),
        ...fact("Created", row?.created ? ago(row.created) : ""),
        ...fact("Slot", told ? `${told.slot}, led by ${told.slot_leader || "nobody yet"}` : row ? `${row.slot}` : ""),
        ...fact("If lost", spec ? (spec.on_loss === "recreate" ? "made anew by its constructor" : "reported, never silently made anew") : "")),
      row && this.acts(row),
      this.failed && h("p", { class: "why" }, this.failed),
      h("h3", {}, "Chain of a call"),
      this.chain(row, spec),
      h("h3", {}, "Where, and why there"),
      this.replicas(row, told),
      this.reasons(told),
      h("h3", {}, "Latency at the replicas, while you look"),
      this.latency(row),
      h("h3", {}, "Checkpoints"),
      this.checkpoints(told),
    ];
    const events = this.store.events.filter((event) => event.microservice === id).slice(0, 8);
    if (events.length) {
      parts.push(h("h3", {}, "Lately"), h("ul", { class: "why" }, ...events.map((event) =>
        h("li", {}, `${clock(event.at)} ${event.kind}${event.server ? ` ${event.server}` : ""} ${event.text || ""}`))));
    }
    return parts;
  }

  chain(row, spec) {
    const dms = spec?.dms || (row?.dms || []).map((name) => ({ name }));
    return h("ol", { class: "chain" }, h("li", { class: "end" }, h("span", {}, "caller")),
      ...dms.map((dm) => {
        const options = Object.entries(dm.options || {}).map(([key, value]) => `${key}=${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
        return h("li", {}, h("span", {}, dm.name, options ? h("small", {}, ` ${options}`) : ""));
      }),
      h("li", { class: "end" }, h("span", {}, row?.kind || "object")));
  }

  replicas(row, told) {
    if (!row) return h("p", { class: "why" }, "Nowhere.");
    const sole = row.replicas.length === 1 && row.replicas[0].path === "/";
    const lines = row.replicas.map((one) => h("tr", {},
      sole ? "" : h("td", {}, one.path),
      h("td", {}, one.server ? link(one.server, () => this.on.server(one.server)) : "nowhere"),
      h("td", {}, one.gone ? "leaving" : one.role === "only" ? "only copy" : one.role === "primary" ? "★ primary" : one.role),
      h("td", {}, h("span", { class: "badge", "data-tone": toneOf(one.state) }, one.state)),
      h("td", { class: "num" }, one.epoch)));
    const moving = told && Object.values(told.groups).find((group) => group.move);
    return h("div", {}, h("table", { class: "small" },
      h("thead", {}, h("tr", {}, sole ? "" : th("Group"), th("Server"), th("Role"), th("State"), th("Epoch", "num"))),
      h("tbody", {}, ...lines)),
    moving ? h("p", { class: "why" }, `Moving to ${moving.move.target.server}: ${moving.move.why}`) : "");
  }

  reasons(told) {
    if (!told) return null;
    const lines = [];
    for (const [path, group] of Object.entries(told.groups).sort()) {
      const where = path === "/" ? "" : `${path}: `;
      const known = new Map((group.replicas || []).map((one) => [one.id, one.server]));
      for (const [replica, why] of Object.entries(group.explanation || {})) lines.push(`${where}${known.get(replica) || replica}: ${why}`);
      for (const [server, why] of Object.entries(group.ineligible || {})) lines.push(`${where}${server} is not eligible: ${why}`);
      for (const [method, count] of Object.entries(group.deaths || {})) lines.push(`${where}${count} processes in a row died in ${method}`);
      if (group.report) lines.push(`${where}it asks for: ${group.report}`);
      if (group.reason) lines.push(`${where}${group.reason}`);
    }
    const terms = told.record.spec.placement?.selector || [];
    if (terms.length) {
      lines.push(`It may be where ${terms.map((term) => term.map((one) => `${one.key} ${one.operator} ${(one.values || []).join(",")}`.trim()).join(" and ")).join(", or ")}`);
    }
    return h("ul", { class: "why" }, ...lines.map((text) => h("li", {}, text)));
  }

  latency(row) {
    const seen = Object.entries(this.told?.latency || {});
    if (!this.told) return h("p", { class: "why" }, "Loading …");
    if (!seen.length) return h("p", { class: "why" }, "No replica answers.");
    const where = (place) => {
      const [path, id] = place.split(" ");
      const one = row?.replicas.find((each) => each.path === path && each.id === id);
      return `${one?.server || id}${path === "/" ? "" : ` ${path}`}`;
    };
    return h("table", { class: "small" },
      h("thead", {}, h("tr", {}, th("On"), th("Calls", "num"), th("Median", "num"), th("99 %", "num"), th("Longest", "num"), th("Now", "num"))),
      h("tbody", {}, ...seen.map(([place, one]) => h("tr", {}, h("td", {}, where(place)),
        ...(one.calls ? [number(one.calls), ms(one.p50_ms), ms(one.p99_ms), ms(one.max_ms), one.in_flight || 0]
          : ["0", "–", "–", "–", one.in_flight || 0]).map((text) => h("td", { class: "num" }, text))))));
  }

  checkpoints(told) {
    if (!told) return h("p", { class: "why" }, "Loading …");
    const all = told.checkpoints || [];
    if (!all.length) return h("p", { class: "why" }, "None.");
    const several = new Set(all.map((one) => one.path)).size > 1;
    return h("table", { class: "small" },
      h("thead", {}, h("tr", {}, several ? th("Group") : "", th("Epoch", "num"), th("Number", "num"), th("Size", "num"), th("Taken"))),
      h("tbody", {}, ...all.slice(0, 12).map((one) => h("tr", {}, several ? h("td", {}, one.path) : "",
        ...[one.epoch, one.sequence, size(one.size)].map((text) => h("td", { class: "num" }, text)), h("td", {}, ago(one.taken_at))))));
  }

  acts(row) {
    const servers = [...this.store.servers.values()].filter((one) => one.live && !one.cordoned && !one.device).map((one) => one.name).sort();
    const id = row.id, name = row.label;
    const buttons = [];
    const add = (words, action, question, danger) =>
      buttons.push(h("button", { type: "button", "data-hold": words, class: danger ? "danger" : "", onclick: () => this.on.act(action, question) }, words));
    if (row.replicas.length && row.state !== "lost" && row.state !== "quarantined") {
      const several = row.replicas.filter((one) => one.id).length > 1;
      const which = several ? [{ name: "which", label: "Replica", options: row.replicas.map((one) => [`${one.path} ${one.id}`, `${one.path} on ${one.server} (${one.role})`]) }] : [];
      if (which.length) which[0].value = which[0].options[0][0];
      add("Move …", { action: "move", microservice: id }, {
        title: `Move ${name}`, text: "It moves live: calls wait for a moment and go on at the new place.", button: "Move",
        fields: [...which, { name: "server", label: "To", options: [["", "wherever it fits best"], ...servers.map((one) => [one, one])] }],
      });
    }
    if (row.dms.includes("ExplicitCheckpoint")) {
      add("Checkpoint", { action: "checkpoint", microservice: id }, { title: `Checkpoint ${name}`, text: "Its present state is stored now.", button: "Take checkpoint" });
    }
    const root = row.groups.find((one) => one.path === "/");
    if (root?.kind === "shards") {
      add("Scale …", { action: "scale", microservice: id }, {
        title: `Scale ${name}`, text: "Keys move to their new shards while calls go on.", button: "Scale",
        fields: [{ name: "shards", label: "Shards", type: "number", value: row.groups.length - 1 }],
      });
    } else if (root?.kind === "replicated") {
      add("Scale …", { action: "scale", microservice: id }, {
        title: `Scale ${name}`, text: "Replicas join or leave while calls go on.", button: "Scale",
        fields: [{ name: "replicas", label: "Replicas", type: "number", value: root.wanted || row.replicas.length }],
      });
    }
    if (row.state === "lost") add("Restore …", { action: "restore", microservice: id }, { title: `Restore ${name}`, text: "From its newest intact checkpoint; without any, its constructor runs again and its state is lost for good.", button: "Restore", danger: true }, true);
    if (row.state === "quarantined") add("Release", { action: "release", microservice: id }, { title: `Release ${name}`, text: "It runs again; if it kills processes again, it is quarantined again.", button: "Release", danger: true }, true);
    return h("div", { class: "acts" }, ...buttons);
  }

  // --- a server ----------------------------------------------------------------------------------------------------------

  server(name) {
    const one = this.store.servers.get(name);
    const used = this.store.onServer.get(name) || 0;
    if (!one) return [h("p", { class: "who" }, name), h("p", { class: "empty" }, used ? `It is lost; ${number(used)} replicas were there.` : "It is gone.")];
    const figures = one.live ? this.store.figures?.servers[name] : null;
    const rate = this.store.rates.get(name);
    const act = (words, action, question, danger) =>
      h("button", { type: "button", "data-hold": words, class: danger ? "danger" : "", onclick: () => this.on.act({ action, server: name }, question) }, words);
    const acts = one.live ? h("div", { class: "acts" },
      h("button", { type: "button", "data-hold": "only", onclick: () => this.on.filter("server", name) }, "Show only what is here"),
      one.cordoned ? act("Open", "uncordon", { title: `Open ${name}`, text: "It takes new replicas again.", button: "Open" })
        : act("Cordon", "cordon", { title: `Cordon ${name}`, text: "It takes no new replicas; those it has stay.", button: "Cordon" }),
      act("Drain …", "drain", { title: `Drain ${name}`, text: `It is cordoned, and ${number(used)} replicas move to other servers, live.`, button: "Drain", danger: true }, true)) : null;
    return [
      h("p", { class: "who" }, name),
      h("dl", { class: "facts" },
        ...fact("State", h("span", { class: "badge", "data-tone": !one.live ? "bad" : one.cordoned ? "busy" : "ok" }, !one.live ? "lost" : one.cordoned ? `cordoned: ${one.cordoned}` : "ready")),
        ...fact("Holds", `${number(used)} replicas${one.capacity ? ` of ${number(one.capacity)}` : ""}, leads ${one.slots} slots`),
        ...fact("Address", h("code", {}, one.address)),
        ...fact("Labels", Object.entries(one.labels).map((pair) => pair.join("=")).join(", ")),
        ...fact("Started", one.started ? ago(one.started) : ""),
        ...fact("Incarnation", one.incarnation),
        ...fact("Release", one.version),
        ...fact("Process", one.pid),
        ...fact("Calls", rate === undefined ? "" : `${number(Math.round(rate))} per second, ${figures?.in_flight || 0} running`),
        ...fact("Threads", figures?.threads),
        ...fact("Memory", figures?.rss_bytes ? size(figures.rss_bytes) : "")),
      acts,
      h("h3", {}, "Calls per second, last three minutes"),
      spark(this.store.history.get(name) || []),
    ];
  }
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

export function ago(at) {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - at));
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit} ago`;
  }
  return `${seconds} s ago`;
}

function size(bytes) {
  let amount = bytes;
  for (const unit of ["B", "KiB", "MiB"]) {
    if (amount < 1024) return `${unit === "B" ? amount : amount.toFixed(1)} ${unit}`;
    amount /= 1024;
  }
  return `${amount.toFixed(1)} GiB`;
}

const ms = (value) => (value >= 100 ? `${Math.round(value)} ms` : value >= 1 ? `${value.toFixed(1)} ms` : `${Math.round(value * 1000)} µs`);
const fact = (title, value) => (value === "" || value === undefined || value === null ? [] : [h("dt", {}, title), h("dd", {}, value)]);
const th = (text, kind = "") => h("th", { class: kind, scope: "col" }, text);
const link = (text, act) => h("button", { type: "button", class: "linkish", onclick: act }, text);

function spark(values) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 90 44");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const most = Math.max(1, ...values);
  svg.setAttribute("aria-label", `at most ${Math.round(most)} calls per second`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  path.setAttribute("points", values.map((value, place) => `${90 - values.length + place},${42 - (value / most) * 38}`).join(" "));
  path.setAttribute("fill", "none");
  path.setAttribute("stroke", "var(--accent)");
  path.setAttribute("stroke-width", "1.5");
  path.setAttribute("vector-effect", "non-scaling-stroke");
  svg.append(path);
  return svg;
}

export function h(kind, attributes, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.addEventListener("click", value);
    else if (value !== "") made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== "" && child !== null && child !== undefined));
  return made;
}
