#!/usr/bin/env node
/**
 * A stand-in for the server while the page is built: same command line, same wire, invented readings.
 *
 *   tidegate-mock.mjs demo  --devices N --rate HZ --listen HOST:PORT [--data-dir DIR]
 *   tidegate-mock.mjs serve --listen HOST:PORT [--data-dir DIR]
 *
 * With `--endpoints all` (or names, with commas) every rig speaks to each of them; `--trouble` lets some steps fail and
 * some readings be late; the first
 * `--pinned N` rigs stay with the version they began with. Serves ../dist, `/v1/live`, a minimal `/v1/stream`, the three API calls of the page, and promotion. Not a
 * reference for anything: its answers are toys (`mock-tasks.mjs`). Samples are kept in memory (the newest `KEPT` a device) and in DIR/mock.jsonl.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { WebSocketServer } from "ws";
import { ENDPOINTS, reading } from "./mock-tasks.mjs";

const { positionals, values: flags } = parseArgs({
  allowPositionals: true,
  options: {
    devices: { type: "string", default: "4" },
    rate: { type: "string", default: "10" },
    listen: { type: "string", default: "127.0.0.1:8080" },
    "data-dir": { type: "string" },
    calibration: { type: "string", default: "400" },
    history: { type: "string", default: "0" },
    empty: { type: "boolean", default: false },
    endpoints: { type: "string", default: "pump-health" },
    trouble: { type: "boolean", default: false },
    pinned: { type: "string", default: "0" },
  },
});
const KEPT = 40_000;
const DIST = fileURLToPath(new URL("../dist", import.meta.url));
const CALIBRATION = Number(flags.calibration);
const log = `mock-${Date.now()}`;
const started = Date.now();

const asked = flags.endpoints === "all" ? [...ENDPOINTS.keys()] : flags.endpoints.split(",");
const endpoints = new Map(asked.map((name) => [name, ENDPOINTS.get(name)]));

const streams = new Map();
let nextId = 1;
let counted = 0;

function stream(endpoint, device) {
  const key = `${endpoint}/${device}`;
  const fresh = { key, endpoint, device, online: false, samples: [], seen: 0, seq: 0, ewma: 0, phase: streams.size };
  if (!streams.has(key)) streams.set(key, fresh);
  return streams.get(key);
}

function outputOf(s, values) {
  s.seen += 1;
  if (flags.trouble && s.seen % 97 === 41) return { failed: "step gave a value that is not finite" };
  if (flags.trouble && s.seen % 131 === 77) return { skipped: "late" };
  return endpoints.get(s.endpoint).answer(s, values, CALIBRATION);
}

function commit(s, { seq, ts, values }) {
  const now = Date.now();
  const { production, default: first } = endpoints.get(s.endpoint).public;
  const [model, version] = (s.pinned ? first : production).split("/");
  const sample = {
    id: nextId++, endpoint: s.endpoint, device: s.device, epoch: 0, seq, ts: ts ?? now, received_at: now, values,
    output: outputOf(s, values), model, version, arm: null, latency_us: 20 + Math.round(Math.random() * 30),
  };
  keep(s, sample);
  if (file) appendFileSync(file, `${JSON.stringify(sample)}\n`);
  publish(`predictions/${s.key}`, sample, sample.id);
  counted += 1;
}

function keep(s, sample) {
  s.samples.push(sample);
  s.seq = sample.seq + 1;
  if (s.samples.length > KEPT) s.samples.splice(0, KEPT / 10);
}

const dir = flags["data-dir"];
if (dir) mkdirSync(dir, { recursive: true });
const file = dir ? join(dir, "mock.jsonl") : null;
if (file && existsSync(file)) {
  for (const line of readFileSync(file, "utf8").split("\n").filter(Boolean)) {
    const sample = JSON.parse(line);
    const s = stream(sample.endpoint, sample.device);
    keep(s, sample);
    s.seen += 1;
    nextId = sample.id + 1;
  }
}

// --- live subscribers ---------------------------------------------------------------------------
const subscribers = new Set();

function matches(pattern, topic) {
  const [p, t] = [pattern.split("/"), topic.split("/")];
  return p.length === t.length && p.every((part, i) => part === "*" || part === t[i]);
}

function publish(topic, data, offset = nextId) {
  for (const sub of subscribers) {
    if (!matches(sub.topic, topic)) continue;
    const last = sub.sentAt.get(topic) ?? 0;
    if (sub.max_hz && Date.now() - last < 1000 / sub.max_hz) continue;
    sub.sentAt.set(topic, Date.now());
    sub.socket.send(JSON.stringify({ type: "event", offset, topic, data }));
  }
}

function recover(sub, from) {
  const all = [...streams.values()].flatMap((s) => s.samples).filter((x) => x.id > from.offset);
  const wanted = all.filter((x) => matches(sub.topic, `predictions/${x.endpoint}/${x.device}`)).sort((a, b) => a.id - b.id);
  for (const x of wanted) {
    const topic = `predictions/${x.endpoint}/${x.device}`;
    sub.socket.send(JSON.stringify({ type: "event", offset: x.id, topic, data: x }));
  }
}

function live(socket) {
  socket.on("message", (text) => {
    const m = JSON.parse(text);
    if (m.type === "unsubscribe") for (const sub of subscribers) if (sub.socket === socket && sub.id === m.id) subscribers.delete(sub);
    if (m.type !== "subscribe") return;
    const sub = { ...m, socket, sentAt: new Map() };
    const recovered = !m.from || m.from.log === log || Boolean(file);
    socket.send(JSON.stringify({ type: "subscribed", id: m.id, log: file ? "stored" : log, offset: nextId - 1, recovered }));
    if (m.from && recovered) recover(sub, m.from);
    subscribers.add(sub);
  });
  socket.on("close", () => {
    for (const sub of subscribers) if (sub.socket === socket) subscribers.delete(sub);
  });
}

// --- device streams -----------------------------------------------------------------------------
function presence(s, online) {
  s.online = online;
  const data = { device: s.device, endpoint: s.endpoint, state: online ? "online" : "offline", at: Date.now() };
  publish(`devices/${s.device}`, data);
}

function deviceSocket(socket, url) {
  const s = stream(url.pathname.split("/").at(-1), url.searchParams.get("device"));
  presence(s, true);
  socket.send(JSON.stringify({ type: "welcome", endpoint: s.endpoint, device: s.device, epoch: 0, resume_from: s.seq }));
  socket.on("message", (text) => {
    const m = JSON.parse(text);
    if (m.seq >= s.seq) commit(s, m);
    socket.send(JSON.stringify({ type: "ack", seq: s.seq - 1 }));
  });
  socket.on("close", () => presence(s, false));
}

// --- HTTP ---------------------------------------------------------------------------------------
function deviceInfo(s) {
  const last = s.samples.at(-1);
  return {
    endpoint: s.endpoint, device: s.device, online: s.online, epoch: 0, last_seq: last?.seq ?? 0, last_ts: last?.ts ?? 0,
    last_seen: last?.received_at ?? started, samples: s.samples.length, model: last?.model ?? null, version: last?.version ?? null,
    output: last?.output ?? null,
  };
}

function samplesPage(query) {
  const limit = Math.min(1000, Number(query.get("limit") ?? 100));
  const asked = [...streams.values()].filter((s) => ["endpoint", "device"].every((name) => [null, s[name]].includes(query.get(name))));
  const all = asked.length === 1 ? asked[0].samples : asked.flatMap((s) => s.samples).sort((a, b) => a.id - b.id);
  const cursor = query.get("cursor");
  const desc = query.get("order") === "desc";
  const rest = all.filter((x) => !cursor || (desc ? x.id < Number(cursor) : x.id > Number(cursor)));
  const page = desc ? rest.slice(-limit).reverse() : rest.slice(0, limit);
  return { samples: page, next_cursor: rest.length > page.length ? String(page.at(-1).id) : null };
}

const API = {
  "/api/v1/endpoints": () => ({ endpoints: [...endpoints.values()].map((e) => e.public) }),
  "/api/v1/devices": () => ({ devices: [...streams.values()].map(deviceInfo), next_cursor: null }),
  "/api/v1/samples": samplesPage,
  "/health/ready": () => ({ status: "ready" }),
};
/** `POST /api/v1/models/{endpoint}/{model}/{version}/promote` and `.../{endpoint}/rollback`; who asks does not matter here. */
function promote(path) {
  const [, name, asked] = path.match(/^\/api\/v1\/models\/([^/]+)\/(?:(.+)\/promote|rollback)$/) ?? [];
  const endpoint = endpoints.get(name)?.public;
  const version = asked ?? endpoint?.before;
  if (!endpoint?.versions.includes(version)) return false;
  endpoint.before = endpoint.production;
  endpoint.production = version;
  return true;
}

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const CSP = "default-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:";

const server = createServer((request, response) => {
  const url = new URL(request.url, "http://mock");
  if (request.method === "POST") {
    response.writeHead(promote(url.pathname) ? 200 : 404).end("{}");
    return;
  }
  const api = API[url.pathname];
  if (api) {
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify(api(url.searchParams)));
    return;
  }
  const path = normalize(url.pathname === "/" ? "/index.html" : url.pathname);
  const full = join(DIST, path);
  if (!existsSync(full)) {
    response.writeHead(404).end("not found");
    return;
  }
  response.setHeader("content-type", TYPES[extname(full)] ?? "application/octet-stream");
  response.setHeader("content-security-policy", CSP);
  response.end(readFileSync(full));
});
const sockets = new WebSocketServer({ server });
sockets.on("connection", (socket, request) => {
  const url = new URL(request.url, "http://mock");
  if (url.pathname === "/v1/live") live(socket);
  else if (url.pathname.startsWith("/v1/stream/")) deviceSocket(socket, url);
  else socket.close(4501, "unknown path");
});

setInterval(() => {
  const n = counted;
  counted = 0;
  const devices_online = [...streams.values()].filter((s) => s.online).length;
  publish("system", {
    devices_online, readings_per_s: n, predictions_per_s: n, acks_per_s: n, subscribers: sockets.clients.size,
    store_lag_ms: 3.2, uptime_s: Math.round((Date.now() - started) / 1000),
  });
}, 1000);

// --- simulated rigs -----------------------------------------------------------------------------
if (positionals[0] === "demo" && !flags.empty) {
  const rate = Number(flags.rate);
  const rigs = Array.from({ length: Number(flags.devices) }, (_, i) => asked.map((name) => stream(name, `rig-${i + 1}`)));
  const steps = Number(flags.history) * 1000;
  const each = (run) => rigs.forEach((devices, i) => devices.forEach((s) => run(s, i)));
  each((s, i) => {
    s.online = true;
    s.pinned = i < Number(flags.pinned);
    const begin = Date.now() - steps;
    for (let t = 0; t < steps; t += 1000 / rate) {
      commit(s, { seq: s.seq, ts: begin + t, values: reading(i, begin + t) });
      s.samples.at(-1).received_at = Math.round(begin + t);
    }
  });
  each((s, i) => {
    if (rigs.length > 6 && i % 11 === 5) s.online = false;
    else setInterval(() => commit(s, { seq: s.seq, values: reading(i, Date.now()) }), 1000 / rate);
  });
}

const [host, port] = flags.listen.split(":");
server.listen(Number(port), host, () => console.log(`tidegate mock: http://${host}:${server.address().port}/`));
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => process.exit(0));
