import { beforeEach, describe, expect, it } from "vitest";
import type { Clock, LiveStatus, SocketLike } from "./live";
import { LiveClient } from "./live";
import type { LiveEvent } from "./wire";

class FakeClock implements Clock {
  time = 0;
  #next = 1;
  #due = new Map<number, { at: number; run: () => void }>();
  now = () => this.time;
  later = (run: () => void, ms: number) => {
    this.#due.set(this.#next, { at: this.time + ms, run });
    return this.#next++;
  };
  cancel = (timer: number) => void this.#due.delete(timer);
  advance(ms: number): void {
    const end = this.time + ms;
    for (;;) {
      const first = [...this.#due].filter(([, d]) => d.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (first === undefined) break;
      this.#due.delete(first[0]);
      this.time = first[1].at;
      first[1].run();
    }
    this.time = end;
  }
}

class FakeSocket implements SocketLike {
  onopen: SocketLike["onopen"] = null;
  onmessage: SocketLike["onmessage"] = null;
  onclose: SocketLike["onclose"] = null;
  onerror: SocketLike["onerror"] = null;
  sent: Record<string, unknown>[] = [];
  closed = false;
  send = (text: string) => void this.sent.push(JSON.parse(text));
  close = () => void (this.closed = true);
  say = (message: object) => this.onmessage?.({ data: JSON.stringify(message) });
  cut = (code = 1006, reason = "") => this.onclose?.({ code, reason });
}

let clock: FakeClock;
let sockets: FakeSocket[];
let statuses: LiveStatus[];
let client: LiveClient;
const last = () => sockets[sockets.length - 1]!;
const status = () => statuses[statuses.length - 1]!;

function listen(options: { recover?: boolean } = {}) {
  const heard = { events: [] as LiveEvent[], ready: 0, lost: 0, dropped: 0 };
  const stop = client.subscribe({
    topic: "predictions/pump-health/rig-1",
    policy: "drop_oldest",
    ...options,
    onEvent: (event) => heard.events.push(event),
    onReady: () => heard.ready++,
    onLost: () => heard.lost++,
    onDropped: (count) => (heard.dropped += count),
  });
  return { heard, stop };
}

const subscribed = (more: object = {}) => ({ type: "subscribed", id: 1, log: "L", offset: 10, recovered: true, ...more });
const event = (offset: number, topic = "predictions/pump-health/rig-1") => ({ type: "event", offset, topic, data: {} });

beforeEach(() => {
  clock = new FakeClock();
  sockets = [];
  statuses = [];
  client = new LiveClient({
    open: () => (sockets.push(new FakeSocket()), last()),
    onStatus: (next) => statuses.push(next),
    clock,
    chance: () => 0.999_999,
  });
});

describe("subscribing", () => {
  it("asks without a position the first time", () => {
    listen();
    client.start();
    last().onopen?.();
    expect(last().sent).toEqual([
      { type: "subscribe", id: 1, topic: "predictions/pump-health/rig-1", policy: "drop_oldest" },
    ]);
  });

  it("asks at once while live and says when it is no longer interested", () => {
    client.start();
    last().onopen?.();
    const { stop, heard } = listen();
    last().say(subscribed());
    stop();
    last().say(event(11));
    expect(last().sent.map((m) => m.type)).toEqual(["subscribe", "unsubscribe"]);
    expect(heard.events).toEqual([]);
  });

  it("hands on events and the count of dropped ones", () => {
    const { heard } = listen();
    client.start();
    last().onopen?.();
    last().say(subscribed());
    last().say(event(11));
    last().say({ type: "dropped", id: 1, count: 7 });
    expect(heard.events.map((e) => e.offset)).toEqual([11]);
    expect(heard.dropped).toBe(7);
  });

  it("hands an event to every subscription whose topic it matches, and to no other", () => {
    const heard: string[] = [];
    for (const topic of ["predictions/*/*", "predictions/pump-health/rig-1", "predictions/*", "system"]) {
      client.subscribe({ topic, policy: "latest", onEvent: () => heard.push(topic) });
    }
    client.start();
    last().onopen?.();
    last().say(event(11));
    last().say(event(12, "predictions/pump-health/rig-2"));
    expect(heard).toEqual(["predictions/*/*", "predictions/pump-health/rig-1", "predictions/*/*"]);
  });

  it("ignores frames it cannot read", () => {
    const { heard } = listen();
    client.start();
    last().onopen?.();
    last().onmessage?.({ data: "{not json" });
    last().onmessage?.({ data: new ArrayBuffer(2) });
    last().say({ type: "of_a_later_version", id: 1 });
    expect(heard.events).toEqual([]);
    expect(status().state).toBe("live");
  });
});

describe("after a cut", () => {
  it("asks again from the last offset it saw", () => {
    const { heard } = listen();
    client.start();
    last().onopen?.();
    last().say(subscribed());
    last().say(event(14));
    last().cut();
    clock.advance(500);
    last().onopen?.();
    expect(sockets).toHaveLength(2);
    expect(last().sent[0]).toMatchObject({ type: "subscribe", from: { log: "L", offset: 14 } });
    last().say(subscribed({ offset: 20 }));
    expect(heard).toMatchObject({ ready: 2, lost: 0 });
  });

  it("keeps its position until the missed events arrive, so that a second cut loses nothing", () => {
    listen();
    client.start();
    last().onopen?.();
    last().say(subscribed());
    last().say(event(14));
    last().cut();
    clock.advance(500);
    last().onopen?.();
    last().say(subscribed({ offset: 20 }));
    last().say(event(15));
    last().cut();
    clock.advance(1000);
    last().onopen?.();
    expect(last().sent[0]).toMatchObject({ from: { log: "L", offset: 15 } });
  });

  it.each([
    ["the server could not recover", { recovered: false, offset: 90 }],
    ["the log is another one", { log: "M", offset: 90 }],
  ])("reports a loss when %s, and goes on from there", (_, answer) => {
    const { heard } = listen();
    client.start();
    last().onopen?.();
    last().say(subscribed());
    last().cut();
    clock.advance(500);
    last().onopen?.();
    last().say(subscribed(answer));
    expect(heard.lost).toBe(1);
    last().cut();
    clock.advance(1000);
    last().onopen?.();
    expect(last().sent[0]).toMatchObject({ from: { offset: 90 } });
  });

  it("starts topics without a log afresh", () => {
    listen({ recover: false });
    client.start();
    last().onopen?.();
    last().say(subscribed());
    last().cut();
    clock.advance(500);
    last().onopen?.();
    expect(last().sent[0]).not.toHaveProperty("from");
  });
});

describe("waiting", () => {
  it("doubles the wait while the server stays away and names the moment of the next try", () => {
    client.start();
    const waits: number[] = [];
    for (let i = 0; i < 7; i++) {
      last().cut();
      const now = status();
      if (now.state !== "waiting") throw new Error(now.state);
      waits.push(now.at - clock.now());
      clock.advance(now.at - clock.now());
    }
    expect(waits).toEqual([500, 1000, 2000, 4000, 8000, 15000, 15000]);
  });

  it("starts from the beginning after a connection that held, not after one that fell at once", () => {
    client.start();
    last().cut();
    clock.advance(500);
    last().onopen?.();
    last().cut();
    expect(status()).toMatchObject({ at: clock.now() + 1000 });
    clock.advance(1000);
    last().onopen?.();
    clock.advance(6000);
    last().cut();
    expect(status()).toMatchObject({ at: clock.now() + 500, attempt: 1 });
  });

  it("waits as long as an overloaded server asks", () => {
    client.start();
    last().onopen?.();
    last().say({ type: "error", code: "overloaded", message: "too much to do", retry_after_ms: 7000 });
    last().cut(4013);
    expect(status()).toMatchObject({ state: "waiting", at: 7000, reason: "too much to do" });
  });

  it("tries at once when told to", () => {
    client.start();
    last().cut();
    client.retry();
    expect(sockets).toHaveLength(2);
    clock.advance(500);
    expect(sockets).toHaveLength(2);
  });

  it("stays away when the server says so, until told to retry", () => {
    client.start();
    last().onopen?.();
    last().cut(4507, "origin not allowed");
    clock.advance(120_000);
    expect(sockets).toHaveLength(1);
    expect(status()).toEqual({ state: "refused", code: 4507, reason: "origin not allowed" });
    client.retry();
    expect(sockets).toHaveLength(2);
  });
});

describe("silence", () => {
  it("counts as a cut", () => {
    client.start();
    const first = last();
    first.onopen?.();
    clock.advance(9000);
    first.say(event(1, "system"));
    clock.advance(9000);
    expect(status().state).toBe("live");
    clock.advance(1000);
    expect(first.closed).toBe(true);
    expect(status()).toMatchObject({ state: "waiting", reason: "no word for 10 s" });
  });

  it("also ends a try that never opens", () => {
    client.start();
    clock.advance(10_000);
    expect(status().state).toBe("waiting");
  });
});

it("is quiet after stop", () => {
  const { heard } = listen();
  client.start();
  const socket = last();
  socket.onopen?.();
  client.stop();
  socket.say(event(11));
  clock.advance(60_000);
  expect(socket.closed).toBe(true);
  expect(sockets).toHaveLength(1);
  expect(heard.events).toEqual([]);
});
