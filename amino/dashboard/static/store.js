// What the page knows: servers, rows and events as they arrive, what moved between two pictures, and what a query selects.
// No drawing and no network here.

export const STATES = ["active", "moving", "changing", "creating", "recovering", "lost", "quarantined", "deleting"];
const TONES = {
  active: "ok", moving: "busy", changing: "busy", creating: "busy", recovering: "busy",
  lost: "bad", quarantined: "held", deleting: "gone",
};
export const toneOf = (state) => TONES[state] || "gone";
const EVENT_TONES = {
  "server-lost": "bad", "lost": "bad", "quarantined": "held", "refused": "bad", "component-failed": "bad",
  "checkpoint-failed": "bad", "memory-short": "bad", "replica-diverged": "bad", "store-not-shared": "bad", "server-fenced": "bad", "stands-aside": "bad",
  "recovered": "ok", "promoted": "ok", "replaced": "ok", "restored": "ok", "server-joined": "ok", "reaches-others": "ok", "created": "ok",
  "moved": "busy", "cordoned": "busy", "paused": "busy", "elected": "busy", "replica-absent": "busy",
};
export const eventTone = (kind) => EVENT_TONES[kind] || "gone";
export const NOWHERE = "";
const GHOST_MS = 12000;
const EVENTS_MAX = 300;

export class Store {
  constructor(now = () => performance.now()) {
    this.now = now;
    this.hello = null;
    this.forget();
  }

  forget() {
    this.rows = new Map();
    this.servers = new Map();
    this.counts = {};
    this.classes = new Map();
    this.onServer = new Map(); // server name -> how many replicas
    this.events = [];
    this.figures = null;
    this.rates = new Map();
    this.history = new Map();
    this.paused = false;
    this.cluster = "";
    this.whole = false;
    this.total = 0;
    this.deltas = []; // what moved since the map asked last
    this.version = 0;
  }

  greeted(hello) {
    const seen = this.hello;
    this.forget();
    this.hello = hello;
    this.total = hello.total;
    return seen !== null;
  }

  members(told) {
    const now = this.now();
    const named = new Set(told.servers.map((one) => one.name));
    for (const [name, server] of this.servers) {
      if (!named.has(name) && server.live) {
        server.live = false;
        server.lostAt = now;
      }
    }
    for (const one of told.servers) {
      this.servers.set(one.name, { ...one, live: true, lostAt: 0 });
    }
    this.paused = told.paused;
    this.cluster = told.cluster;
    this.sweep();
    this.version++;
  }

  /** Forget servers that are long gone and hold nothing; returns whether any was. */
  sweep() {
    let swept = false;
    for (const [name, server] of this.servers) {
      if (!server.live && this.now() - server.lostAt > GHOST_MS && !this.onServer.get(name)) {
        this.servers.delete(name);
        swept = true;
      }
    }
    return swept;
  }

  put(list) {
    for (const row of list) {
      const old = this.rows.get(row.id);
      dress(row);
      if (old) this.count(old, -1);
      this.rows.set(row.id, row);
      this.count(row, 1);
      if (this.whole) this.compare(old, row);
    }
    this.version++;
  }

  drop(ids) {
    for (const id of ids) {
      const old = this.rows.get(id);
      if (!old) continue;
      this.count(old, -1);
      this.rows.delete(id);
    }
    this.version++;
  }

  count(row, by) {
    this.counts[row.state] = (this.counts[row.state] || 0) + by;
    const classes = (this.classes.get(row.kind) || 0) + by;
    if (classes) this.classes.set(row.kind, classes);
    else this.classes.delete(row.kind);
    for (const one of row.replicas) {
      const there = (this.onServer.get(one.server) || 0) + by;
      if (there) this.onServer.set(one.server, there);
      else this.onServer.delete(one.server);
    }
  }

  /** Note what moved between servers, and who became primary. */
  compare(old, row) {
    if (!old) {
      for (const one of row.replicas) this.deltas.push({ row, path: one.path, to: one.server, kind: "made" });
      return;
    }
    for (const group of row.groups) {
      const before = old.groups.find((one) => one.path === group.path);
      const servers = new Set((before?.replicas || []).map((one) => one.server));
      const present = new Set((group.replicas || []).map((one) => one.server));
      const left = [...servers].filter((name) => !present.has(name));
      for (const one of group.replicas || []) {
        const was = (before?.replicas || []).find((other) => other.server === one.server);
        if (!was) {
          // a move under way still names both; the server that is left may also be a lost one
          const from = left.shift() ?? (group.leaving ? group.replicas.find((r) => r.id === group.leaving)?.server : undefined);
          const lost = from !== undefined && this.servers.get(from)?.live === false;
          this.deltas.push({ row, path: group.path, from, to: one.server, kind: lost ? "failover" : "moved" });
        } else if (was.role !== one.role && (one.role === "primary" || (one.role === "only" && was.role !== "only"))) {
          this.deltas.push({ row, path: group.path, to: one.server, kind: one.role === "primary" ? "promoted" : "moved" });
        }
      }
    }
  }

  happened(list) {
    for (const event of list) this.events.unshift(event);
    this.events.length = Math.min(this.events.length, EVENTS_MAX);
  }

  measured(figures) {
    const before = this.figures;
    this.figures = figures;
    for (const [name, one] of Object.entries(figures.servers)) {
      const was = before?.servers[name];
      if (was && was.incarnation === one.incarnation && figures.at > before.at) {
        const rate = Math.max(0, ((one.calls || 0) - (was.calls || 0)) / (figures.at - before.at));
        this.rates.set(name, rate);
        const history = this.history.get(name) || [];
        history.push(rate);
        if (history.length > 90) history.shift();
        this.history.set(name, history);
      }
    }
  }

  /** The panels of the map: live servers, lost ones that still show, and what is on no server at all. */
  panels() {
    const found = [...this.servers.values()].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    for (const name of this.onServer.keys()) {
      if (name !== NOWHERE && !this.servers.has(name)) found.push({ name, live: false, labels: {} });
    }
    if (this.onServer.get(NOWHERE)) found.push({ name: NOWHERE, live: false, labels: {} });
    return found;
  }

  mood() {
    const c = (state) => this.counts[state] || 0;
    const all = this.rows.size;
    const live = [...this.servers.values()].filter((one) => one.live && !one.device).length;
    const ghosts = [...this.servers.values()].filter((one) => !one.live).map((one) => one.name);
    const where = `${number(live)} server${live === 1 ? "" : "s"}`;
    const things = `${number(all)} microservice${all === 1 ? "" : "s"}`;
    const parts = [];
    if (c("lost")) parts.push(`${number(c("lost"))} lost`);
    if (c("quarantined")) parts.push(`${number(c("quarantined"))} quarantined`);
    const bad = parts.length > 0;
    if (c("recovering")) parts.push(`${number(c("recovering"))} recovering`);
    if (c("creating")) parts.push(`${number(c("creating"))} starting`);
    const moving = c("moving") + c("changing");
    if (moving) parts.push(`${number(moving)} moving`);
    if (ghosts.length) parts.push(`${ghosts.join(", ")} just lost`);
    if (this.paused) parts.push("automatic recovery is paused");
    if (!this.whole) return { mood: "wait", text: `Loading ${number(all)} of ${number(this.total)} …` };
    if (!parts.length) return { mood: "good", text: `Healthy: ${things} on ${where}` };
    return { mood: bad ? "bad" : "busy", text: `${parts.join(", ")} — ${things} on ${where}` };
  }
}

/** Add to a row what searching and drawing need. */
function dress(row) {
  row.kind = row.cls.slice(row.cls.lastIndexOf(":") + 1);
  row.label = row.name || row.id;
  row.order = !row.name ? `~${row.id}` : row.name.toLowerCase().replace(/\d+/g, (digits) => digits.padStart(9, "0"));
  row.dms ||= [];
  row.labels ||= {};
  row.replicas = [];
  let group = false;
  for (const one of row.groups) {
    one.replicas ||= [];
    if (one.kind === "shards") {
      group = true;
      continue;
    }
    const worst = one.state;
    for (const replica of one.replicas) {
      const gone = replica.id === one.leaving;
      row.replicas.push({ ...replica, path: one.path, state: worst, epoch: one.epoch, gone });
    }
    if (!one.replicas.length) row.replicas.push({ id: "", server: NOWHERE, role: "starting", path: one.path, state: worst, epoch: one.epoch });
  }
  row.epoch = Math.max(0, ...row.groups.map((one) => one.epoch));
  row.servers = [...new Set(row.replicas.map((one) => one.server))].filter(Boolean).sort();
  row.shape = group ? `${row.groups.length - 1} shards` : row.groups.some((one) => one.kind === "replicated") ? `${row.replicas.length} replicas` : "";
  row.text = [row.name, row.id, row.cls, row.application || "", ...Object.entries(row.labels).map((pair) => pair.join("="))].join(" ").toLowerCase();
}

export const number = (value) => value.toLocaleString("en");

/** Make of a query what tells whether a row fits. Words are sought in name, id, class, application and labels. */
export function queryOf(text) {
  const tests = [];
  for (const word of text.toLowerCase().split(/\s+/).filter(Boolean)) {
    const [, key, value] = word.match(/^(state|server|class|dm|app|role|label):(.*)$/) || [];
    if (!key || !value) tests.push((row) => row.text.includes(word));
    else if (key === "state") tests.push((row) => value.split(",").includes(row.state));
    else if (key === "server") tests.push((row) => row.servers.some((name) => name.toLowerCase() === value));
    else if (key === "class") tests.push((row) => row.kind.toLowerCase() === value || row.cls.toLowerCase() === value);
    else if (key === "dm") tests.push((row) => row.dms.some((name) => name.toLowerCase().includes(value)));
    else if (key === "app") tests.push((row) => (row.application || "").toLowerCase() === value);
    else if (key === "role") tests.push((row) => row.replicas.some((one) => one.role === value));
    else if (key === "label") tests.push((row) => Object.entries(row.labels).some((pair) => pair.join("=").toLowerCase().startsWith(value)));
  }
  return tests.length ? (row) => tests.every((test) => test(row)) : null;
}

/** Set, replace or (empty value) remove `key:value` in a query. */
export function withTerm(text, key, value) {
  const rest = text.split(/\s+/).filter((word) => word && !word.toLowerCase().startsWith(`${key}:`));
  return [...rest, ...(value ? [`${key}:${value}`] : [])].join(" ");
}

export function termOf(text, key) {
  const found = text.split(/\s+/).find((word) => word.toLowerCase().startsWith(`${key}:`));
  return found ? found.slice(key.length + 1) : "";
}
