/**
 * The live connection: one WebSocket to `/v1/live` that carries every subscription of the page.
 *
 * Owns the socket, the reconnect timer and each subscription's position in the log. Promises: after a
 * cut it comes back by itself (back-off with jitter) and asks for every subscription again from its
 * last offset; a subscription that could not be recovered whole hears `onLost` and must refetch.
 * A socket that says nothing for `silenceMs` counts as cut. Does not know HTTP, the page or what
 * an event means; an event names no subscription, so it goes to every one whose topic it matches. Socket,
 * clock and chance are handed in, so tests need neither network nor time.
 */

import { waitMs } from "./backoff";
import type { ClientMessage, LiveEvent, Policy, Position, ServerMessage, Subscribed } from "./wire";
import { mayReconnect, readServerMessage, topicMatches } from "./wire";

export type LiveStatus =
  | { state: "connecting" }
  | { state: "live" }
  /** `at` is when the next try starts (ms on the client's clock). */
  | { state: "waiting"; at: number; attempt: number; reason: string }
  /** The server asked not to come back; only `retry` does. */
  | { state: "refused"; code: number; reason: string };

export interface SocketLike {
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: (() => void) | null;
  send(text: string): void;
  close(code?: number): void;
}

export interface Clock {
  now(): number;
  later(run: () => void, ms: number): number;
  cancel(timer: number): void;
}

export interface LiveOptions {
  open: () => SocketLike;
  onStatus: (status: LiveStatus) => void;
  clock?: Clock;
  chance?: () => number;
  silenceMs?: number;
}

export interface Interest {
  topic: string;
  policy: Policy;
  maxHz?: number;
  /** False for topics without a log (`system`): they start afresh after a cut. */
  recover?: boolean;
  onEvent: (event: LiveEvent) => void;
  /** Answered for the first time, or again after a cut without loss. */
  onReady?: () => void;
  /** Events were missed for good: fetch what is missing. */
  onLost?: () => void;
  onDropped?: (count: number) => void;
}

interface Subscription {
  id: number;
  interest: Interest;
  position: Position | null;
}

/** A connection must hold this long before the next failure starts the back-off from its beginning. */
const STABLE_MS = 5_000;
const SILENCE_MS = 10_000;

const realClock: Clock = {
  now: () => Date.now(),
  later: (run, ms) => setTimeout(run, ms) as unknown as number,
  cancel: (timer) => clearTimeout(timer),
};

export class LiveClient {
  readonly #open: () => SocketLike;
  readonly #onStatus: (status: LiveStatus) => void;
  readonly #clock: Clock;
  readonly #chance: () => number;
  readonly #silenceMs: number;
  readonly #subscriptions = new Map<number, Subscription>();
  #socket: SocketLike | null = null;
  #status: LiveStatus = { state: "connecting" };
  #timer: number | null = null;
  #watch: number | null = null;
  #heardAt = 0;
  #openedAt = 0;
  #attempt = 0;
  #askedMs = 0;
  #complaint = "";
  #nextId = 1;

  constructor(options: LiveOptions) {
    this.#open = options.open;
    this.#onStatus = options.onStatus;
    this.#clock = options.clock ?? realClock;
    this.#chance = options.chance ?? Math.random;
    this.#silenceMs = options.silenceMs ?? SILENCE_MS;
  }

  get status(): LiveStatus {
    return this.#status;
  }

  start(): void {
    if (this.#socket === null && this.#timer === null) this.#connect();
  }

  /** Tries at once instead of at the end of the wait. */
  retry(): void {
    if (this.#socket !== null) return;
    this.#cancelTimer();
    this.#connect();
  }

  /** Closes for good. */
  stop(): void {
    this.#cancelTimer();
    this.#letGo(1000);
  }

  /** Starts listening; the returned function ends it. */
  subscribe(interest: Interest): () => void {
    const id = this.#nextId++;
    const subscription: Subscription = { id, interest, position: null };
    this.#subscriptions.set(id, subscription);
    if (this.#status.state === "live") this.#ask(subscription);
    return () => {
      if (this.#subscriptions.delete(id) && this.#status.state === "live") {
        this.#send({ type: "unsubscribe", id });
      }
    };
  }

  #connect(): void {
    this.#timer = null;
    this.#set({ state: "connecting" });
    this.#heardAt = this.#clock.now();
    const socket = this.#open();
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = (event) => this.#heard(event.data);
    socket.onclose = (event) => this.#closed(event.code, event.reason);
    socket.onerror = () => {};
    this.#watchSilence();
  }

  #opened(): void {
    this.#openedAt = this.#heardAt = this.#clock.now();
    this.#complaint = "";
    this.#askedMs = 0;
    this.#set({ state: "live" });
    for (const subscription of this.#subscriptions.values()) this.#ask(subscription);
  }

  #ask({ id, interest, position }: Subscription): void {
    const from = interest.recover !== false && position !== null ? { from: position } : {};
    const rate = interest.maxHz === undefined ? {} : { max_hz: interest.maxHz };
    this.#send({ type: "subscribe", id, topic: interest.topic, ...from, policy: interest.policy, ...rate });
  }

  #heard(frame: unknown): void {
    this.#heardAt = this.#clock.now();
    const message = readServerMessage(frame);
    if (message !== null) this.#take(message);
  }

  #take(message: ServerMessage): void {
    if (message.type === "error") {
      this.#complaint = message.message || message.code;
      this.#askedMs = message.retry_after_ms ?? 0;
      return;
    }
    if (message.type === "event") return this.#event(message);
    const subscription = this.#subscriptions.get(message.id);
    if (subscription === undefined) return;
    if (message.type === "subscribed") this.#subscribed(subscription, message);
    else subscription.interest.onDropped?.(message.count);
  }

  #subscribed(subscription: Subscription, { log, offset, recovered }: Subscribed): void {
    const before = subscription.position;
    const lost = before !== null && (!recovered || before.log !== log);
    // After a recovery the missed events follow: the position moves with them, not ahead of them.
    subscription.position = before === null || lost ? { log, offset } : before;
    if (lost) subscription.interest.onLost?.();
    else subscription.interest.onReady?.();
  }

  #event(event: LiveEvent): void {
    for (const subscription of this.#subscriptions.values()) {
      const { position, interest } = subscription;
      if (!topicMatches(interest.topic, event.topic)) continue;
      if (position !== null && event.offset !== undefined && event.offset > position.offset) {
        subscription.position = { log: position.log, offset: event.offset };
      }
      interest.onEvent(event);
    }
  }

  #closed(code: number, reason: string): void {
    const held = this.#status.state === "live" && this.#clock.now() - this.#openedAt >= STABLE_MS;
    this.#letGo();
    const said = this.#complaint || reason;
    if (!mayReconnect(code)) {
      this.#set({ state: "refused", code, reason: said || `closed with code ${code}` });
      return;
    }
    if (held) this.#attempt = 0;
    const wait = waitMs(this.#attempt, this.#chance(), this.#askedMs);
    this.#attempt += 1;
    this.#set({ state: "waiting", at: this.#clock.now() + wait, attempt: this.#attempt, reason: said });
    this.#timer = this.#clock.later(() => this.#connect(), wait);
  }

  #watchSilence(): void {
    const left = this.#heardAt + this.#silenceMs - this.#clock.now();
    if (left <= 0) {
      this.#closed(4000, `no word for ${Math.round(this.#silenceMs / 1000)} s`);
      return;
    }
    this.#watch = this.#clock.later(() => this.#watchSilence(), left);
  }

  /** Forgets the socket before closing it: a late event of it reaches nobody. */
  #letGo(code?: number): void {
    if (this.#watch !== null) this.#clock.cancel(this.#watch);
    this.#watch = null;
    const socket = this.#socket;
    this.#socket = null;
    if (socket === null) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(code);
  }

  #cancelTimer(): void {
    if (this.#timer !== null) this.#clock.cancel(this.#timer);
    this.#timer = null;
  }

  #send(message: ClientMessage): void {
    this.#socket?.send(JSON.stringify(message));
  }

  #set(status: LiveStatus): void {
    this.#status = status;
    this.#onStatus(status);
  }
}
