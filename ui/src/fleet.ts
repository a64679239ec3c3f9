/**
 * The list of devices as plain values: what a row knows, which state it shows, how rows are ordered.
 *
 * Pure; time is an argument. The live half is `fleet.svelte.ts`.
 */

import { scoreRatio } from "./series";
import type { DeviceInfo, Output, Sample } from "./wire";

export type Condition = "anomaly" | "failed" | "calibrating" | "normal" | "offline" | "waiting";

export interface Row {
  key: string;
  endpoint: string;
  device: string;
  online: boolean;
  /** When it last came or went (ms), 0 if not seen here. */
  changedAt: number;
  lastSeen: number;
  lastSeq: number;
  output: Output | null;
  /** Last anomaly seen (ms). */
  anomalyAt: number;
}

export type SortBy = "state" | "score" | "name" | "seen";

/** An anomaly stays in the list this long after its last reading, so that rows do not flicker. */
export const ANOMALY_HOLD_MS = 4_000;
/** A reading this long after a device went away means it is back (events of both may cross). */
const BACK_AFTER_MS = 2_000;

export const keyOf = (endpoint: string, device: string) => `${endpoint}/${device}`;

export function rowOfInfo(info: DeviceInfo, before?: Row): Row {
  const { endpoint, device, online, output } = info;
  const key = keyOf(endpoint, device);
  // Readings that were on the road when a device went away must not bring it back.
  const changedAt = Math.max(before?.changedAt ?? 0, online ? 0 : info.last_seen);
  const row: Row = { key, endpoint, device, online, output, changedAt, anomalyAt: 0, lastSeen: info.last_seen, lastSeq: info.last_seq };
  // The answer may be older than what the socket brought meanwhile.
  if (before === undefined || before.lastSeen <= info.last_seen) return { ...row, anomalyAt: before?.anomalyAt ?? 0 };
  return { ...before, online };
}

export function rowOfSample(sample: Sample, now: number, before?: Row): Row {
  const { endpoint, device, output } = sample;
  const back = before !== undefined && sample.received_at > before.changedAt + BACK_AFTER_MS;
  return {
    key: keyOf(endpoint, device),
    endpoint,
    device,
    online: before === undefined || before.online || back,
    changedAt: before?.changedAt ?? 0,
    lastSeen: sample.received_at,
    lastSeq: sample.seq,
    output,
    anomalyAt: output.anomaly ? now : (before?.anomalyAt ?? 0),
  };
}

export function conditionOf(row: Row, now: number): Condition {
  if (!row.online) return "offline";
  if (row.output?.anomaly || now - row.anomalyAt < ANOMALY_HOLD_MS) return "anomaly";
  if (row.output === null) return "waiting";
  if (row.output.failed !== undefined) return "failed";
  if (row.output.calibrating !== undefined) return "calibrating";
  return "normal";
}

const RANK: Record<Condition, number> = { anomaly: 0, failed: 1, calibrating: 2, normal: 3, waiting: 4, offline: 5 };

const names = new Intl.Collator("en", { numeric: true });
const byName = (a: Row, b: Row) => names.compare(a.device, b.device) || names.compare(a.endpoint, b.endpoint);

/** Within one state rows keep the order of their names: a list that moves only when something happened. */
export function sortRows(rows: Row[], by: SortBy, now: number): Row[] {
  const rank = (row: Row) => RANK[conditionOf(row, now)];
  const score = (row: Row) => (row.online ? (scoreRatio(row.output) ?? -1) : -2);
  const orders: Record<SortBy, (a: Row, b: Row) => number> = {
    state: (a, b) => rank(a) - rank(b) || byName(a, b),
    score: (a, b) => score(b) - score(a) || byName(a, b),
    seen: (a, b) => b.lastSeen - a.lastSeen || byName(a, b),
    name: byName,
  };
  return [...rows].sort(orders[by]);
}

/** Every word must occur in the device, its endpoint or the name of its state. */
export function filterRows(rows: Row[], text: string, now: number): Row[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return rows;
  return rows.filter((row) => {
    const hay = `${row.key.toLowerCase()} ${conditionOf(row, now)}`;
    return words.every((word) => hay.includes(word));
  });
}

export type Counts = Record<Condition, number>;

export function countRows(rows: Iterable<Row>, now: number): Counts {
  const counts: Counts = { anomaly: 0, failed: 0, calibrating: 0, normal: 0, waiting: 0, offline: 0 };
  for (const row of rows) counts[conditionOf(row, now)] += 1;
  return counts;
}
