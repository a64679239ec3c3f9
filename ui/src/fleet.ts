/**
 * The list of devices as plain values: what a row knows, which state it shows, how rows are ordered.
 *
 * Pure; time is an argument. The live half is `fleet.svelte.ts`.
 */

import { scoreRatio } from "./series";
import { tellsVersion, versionOf } from "./versions";
import type { DeviceInfo, Output, Sample } from "./wire";

/** `normal` is said only where a score lies below its threshold; other tasks are `predicting`. */
export type Condition = "anomaly" | "failed" | "calibrating" | "normal" | "predicting" | "offline" | "waiting";

export interface Row {
  key: string;
  endpoint: string;
  device: string;
  online: boolean;
  /** When it last came or went (ms), 0 if not seen here. */
  changedAt: number;
  lastSeen: number;
  lastSeq: number;
  /** Of the last reading; a skipped one leaves the answer before it in place. */
  output: Output | null;
  /** `model/version` that answered it, null before the first. */
  served: string | null;
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
  const served = info.model && info.version ? versionOf({ model: info.model, version: info.version }) : null;
  const row: Row = { key, endpoint, device, online, output, served, changedAt, anomalyAt: 0, lastSeen: info.last_seen, lastSeq: info.last_seq };
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
    output: output.skipped === undefined ? output : (before?.output ?? output),
    served: tellsVersion(sample) ? versionOf(sample) : (before?.served ?? null),
    anomalyAt: output.anomaly ? now : (before?.anomalyAt ?? 0),
  };
}

export function conditionOf(row: Row, now: number): Condition {
  if (!row.online) return "offline";
  if (row.output?.anomaly || now - row.anomalyAt < ANOMALY_HOLD_MS) return "anomaly";
  if (row.output === null || row.output.skipped !== undefined) return "waiting";
  if (row.output.failed !== undefined) return "failed";
  if (row.output.calibrating !== undefined) return "calibrating";
  return row.output.anomaly === undefined ? "predicting" : "normal";
}

const RANK: Record<Condition, number> = { anomaly: 0, failed: 1, calibrating: 2, normal: 3, predicting: 3, waiting: 4, offline: 5 };

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

/** Every word must occur in the device, its endpoint, its version, its label or the name of its state. */
export function filterRows(rows: Row[], text: string, now: number): Row[] {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return rows;
  return rows.filter((row) => {
    const hay = `${row.key} ${row.served ?? ""} ${row.output?.label ?? ""} ${conditionOf(row, now)}`.toLowerCase();
    return words.every((word) => hay.includes(word));
  });
}

export type Counts = Record<Condition, number>;

export function countRows(rows: Iterable<Row>, now: number): Counts {
  const counts: Counts = { anomaly: 0, failed: 0, calibrating: 0, normal: 0, predicting: 0, waiting: 0, offline: 0 };
  for (const row of rows) counts[conditionOf(row, now)] += 1;
  return counts;
}

export interface Serving {
  endpoint: string;
  /** How many devices online each version answers, most first; always more than one version. */
  versions: [version: string, devices: number][];
}

/** Endpoints whose devices online are answered by different versions. */
export function mixedServing(rows: Iterable<Row>): Serving[] {
  const counts = new Map<string, Map<string, number>>();
  for (const { endpoint, served, online } of rows) {
    if (!online || served === null) continue;
    const versions = counts.get(endpoint) ?? new Map<string, number>();
    counts.set(endpoint, versions.set(served, (versions.get(served) ?? 0) + 1));
  }
  const mixed = [...counts].filter(([, versions]) => versions.size > 1);
  const byCount = (a: [string, number], b: [string, number]) => b[1] - a[1] || names.compare(a[0], b[0]);
  return mixed.map(([endpoint, versions]) => ({ endpoint, versions: [...versions].sort(byCount) }));
}
