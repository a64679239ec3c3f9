/**
 * The words of the server: what `/v1/live` and the HTTP API say, as types.
 *
 * Owns no behaviour but reading one frame. Fields the page does not use are left out; unknown
 * fields and unknown message types are ignored, so that a newer server can talk to an older page.
 */

export const LIVE_PATH = "/v1/live";
export const LIVE_SUBPROTOCOL = "tidegate.v1.json";

/** What to do with a reader that is too slow: keep the newest a topic, or drop the oldest and count. */
export type Policy = "latest" | "drop_oldest" | "disconnect";

/** A place in the committed log; an offset means nothing without its log. */
export interface Position {
  log: string;
  offset: number;
}

export interface Subscribe {
  type: "subscribe";
  id: number;
  topic: string;
  from?: Position;
  policy?: Policy;
  max_hz?: number;
}

export interface Unsubscribe {
  type: "unsubscribe";
  id: number;
}

export type ClientMessage = Subscribe | Unsubscribe;

export interface Subscribed {
  type: "subscribed";
  id: number;
  log: string;
  offset: number;
  recovered: boolean;
}

/** Its bytes are shared by all who listen, so it names its topic, not a subscription. */
export interface LiveEvent {
  type: "event";
  offset?: number;
  topic: string;
  data: unknown;
}

export interface Dropped {
  type: "dropped";
  id: number;
  count: number;
}

export interface ErrorMessage {
  type: "error";
  code: string;
  message: string;
  retry_after_ms?: number | null;
}

export type ServerMessage = Subscribed | LiveEvent | Dropped | ErrorMessage;

/** A version's output for one reading; which fields are there depends on the endpoint's task. */
export interface Output {
  score?: number;
  threshold?: number;
  anomaly?: boolean;
  calibrating?: { seen: number; needed: number };
  /** The step gave no answer, and the state is as it was before. */
  failed?: string;
  /** Stored, but not folded into the state. */
  skipped?: string;
  label?: string;
  probabilities?: Record<string, number>;
  /** Of a regression by name; of a forecast one for each of `horizon`. */
  values?: Record<string, number> | number[];
  /** Seconds ahead of the reading. */
  horizon?: number[];
  quantiles?: Record<string, number[]>;
}

/** One stored row: reading, prediction and timings. Times are Unix ms. */
export interface Sample {
  id: number;
  endpoint: string;
  device: string;
  epoch: number;
  seq: number;
  ts: number;
  received_at: number;
  values: (number | null)[];
  output: Output;
  model: string;
  version: string;
  arm: string | null;
  latency_us: number;
  flags?: string[];
}

export interface DeviceEvent {
  device: string;
  endpoint: string;
  state: "online" | "offline" | "gap";
  at: number;
}

export interface SystemRates {
  devices_online: number;
  readings_per_s: number;
  predictions_per_s: number;
  acks_per_s: number;
  subscribers: number;
  store_lag_ms: number;
  uptime_s: number;
}

export interface Feature {
  name: string;
  unit: string;
  /** Values outside are flagged, not refused. */
  range: [number, number] | null;
}

/** What the numbers of an answer mean, as the version in production has it. */
export interface Head {
  /** The feature that a forecast is about. */
  target?: string;
  /** Of a forecast's numbers. */
  unit?: string;
  /** Quantities of a regression. */
  values?: { name: string; unit?: string }[];
}

export interface Endpoint {
  name: string;
  description: string;
  revision: number;
  task: "anomaly" | "classification" | "regression" | "forecast";
  features: Feature[];
  /** Serves while no version was promoted. */
  default: string;
  /** Serves every stream that is not pinned; a server without promotion leaves it out. */
  production?: string;
  /** An older server leaves it out. */
  head?: Head;
  versions: string[];
}

export interface DeviceInfo {
  endpoint: string;
  device: string;
  online: boolean;
  epoch: number;
  last_seq: number;
  last_ts: number;
  last_seen: number;
  samples: number;
  /** Of the last reading; null before the first. */
  model: string | null;
  version: string | null;
  output: Output | null;
}

export interface Page<T> {
  items: T[];
  next_cursor: string | null;
}

const SERVER_TYPES = new Set(["subscribed", "event", "dropped", "error"]);

/** Reads one frame; null for what is not a message this page knows. */
export function readServerMessage(frame: unknown): ServerMessage | null {
  if (typeof frame !== "string") return null;
  try {
    const message = JSON.parse(frame) as { type?: unknown } | null;
    const known = typeof message?.type === "string" && SERVER_TYPES.has(message.type);
    return known ? (message as ServerMessage) : null;
  } catch {
    return null;
  }
}

/** Whether a topic is one that a pattern asks for; `*` stands for one level. */
export function topicMatches(pattern: string, topic: string): boolean {
  if (!pattern.includes("*")) return pattern === topic;
  const [wanted, given] = [pattern.split("/"), topic.split("/")];
  return wanted.length === given.length && wanted.every((level, i) => level === "*" || level === given[i]);
}

/** Whether a close code invites the client back: see the table of close codes in `protocol/README.md`. */
export function mayReconnect(code: number): boolean {
  if (code >= 4500 && code <= 4999) return false;
  return ![1003, 1007, 1008, 1009].includes(code);
}
