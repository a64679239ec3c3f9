/**
 * The curves of one device, folded as they come: bounded memory at any rate and for any time.
 *
 * For each window the page offers there is a tier of time buckets in a ring, each with the least,
 * greatest and last value of every sensor and the worst score. Folding is idempotent and takes samples in any order,
 * so history fetched over HTTP may overlap what the socket already brought. Knows no drawing.
 */

import type { Sample } from "./wire";

export interface Window {
  id: string;
  label: string;
  ms: number;
}

export const WINDOWS: readonly Window[] = [
  { id: "2m", label: "2 min", ms: 120_000 },
  { id: "10m", label: "10 min", ms: 600_000 },
  { id: "1h", label: "1 h", ms: 3_600_000 },
];

/** Buckets across one window: about one a pixel of a small plot, two of the wide one. */
const BUCKETS = 600;
/** Kept beyond the window, so that a paused page can look a little further back. */
const SPARE = 1.25;
/** A device clock further ahead of the server than this is not believed. */
const AHEAD_MS = 60_000;

export const enum Mark {
  None = 0,
  Calibrating = 1,
  Anomaly = 2,
}

/** Where on the time axis a sample is drawn: its own time, or its arrival when its clock runs ahead. */
export function drawnAt(sample: Sample): number {
  return sample.ts > sample.received_at + AHEAD_MS ? sample.received_at : sample.ts;
}

/** One ring of buckets; a slot belongs to the bucket number it holds. */
export class Tier {
  readonly widthMs: number;
  readonly capacity: number;
  readonly bucket: Float64Array;
  readonly at: Float64Array;
  readonly low: Float32Array;
  readonly high: Float32Array;
  readonly last: Float32Array;
  /** Of the reading with the greatest score / threshold in the bucket; NaN without a score. */
  readonly ratio: Float32Array;
  readonly score: Float32Array;
  readonly threshold: Float32Array;
  readonly mark: Uint8Array;
  /** Of the bucket's last reading: which of the series' versions answered, from 1. */
  readonly version: Uint16Array;
  readonly features: number;
  newest = -Infinity;

  constructor(windowMs: number, features: number) {
    this.widthMs = windowMs / BUCKETS;
    this.capacity = Math.ceil(BUCKETS * SPARE) + 1;
    this.features = features;
    this.bucket = new Float64Array(this.capacity).fill(NaN);
    this.at = new Float64Array(this.capacity);
    this.low = new Float32Array(this.capacity * features);
    this.high = new Float32Array(this.capacity * features);
    this.last = new Float32Array(this.capacity * features);
    this.ratio = new Float32Array(this.capacity);
    this.score = new Float32Array(this.capacity);
    this.threshold = new Float32Array(this.capacity);
    this.mark = new Uint8Array(this.capacity);
    this.version = new Uint16Array(this.capacity);
  }

  /** Slot of a bucket number, or -1 when nothing is there. */
  slot(number: number): number {
    const slot = ((number % this.capacity) + this.capacity) % this.capacity;
    return this.bucket[slot] === number ? slot : -1;
  }

  fold(at: number, sample: Sample, version: number): void {
    const number = Math.floor(at / this.widthMs);
    if (number <= this.newest - this.capacity) return;
    const slot = ((number % this.capacity) + this.capacity) % this.capacity;
    if (this.bucket[slot] !== number) this.#clear(slot, number);
    if (number > this.newest) this.newest = number;
    const isLast = at >= this.at[slot]!;
    if (isLast) {
      this.at[slot] = at;
      this.version[slot] = version;
    }
    this.#foldValues(slot, sample.values, isLast);
    this.#foldOutput(slot, sample);
  }

  #clear(slot: number, number: number): void {
    this.bucket[slot] = number;
    this.at[slot] = -Infinity;
    const [from, to] = [slot * this.features, (slot + 1) * this.features];
    for (const column of [this.low, this.high, this.last]) column.fill(NaN, from, to);
    this.ratio[slot] = this.score[slot] = this.threshold[slot] = NaN;
    this.mark[slot] = Mark.None;
    this.version[slot] = 0;
  }

  #foldValues(slot: number, values: Sample["values"], isLast: boolean): void {
    for (let f = 0; f < this.features; f++) {
      const value = values[f];
      if (value === null || value === undefined) continue;
      const i = slot * this.features + f;
      // Negated, so that the NaN of an empty bucket takes the value.
      if (!(this.low[i]! <= value)) this.low[i] = value;
      if (!(this.high[i]! >= value)) this.high[i] = value;
      if (isLast || Number.isNaN(this.last[i]!)) this.last[i] = value;
    }
  }

  #foldOutput(slot: number, { output }: Sample): void {
    const mark = output.anomaly ? Mark.Anomaly : output.calibrating ? Mark.Calibrating : Mark.None;
    if (mark > this.mark[slot]!) this.mark[slot] = mark;
    const ratio = scoreRatio(output);
    if (ratio === null || this.ratio[slot]! >= ratio) return;
    this.ratio[slot] = ratio;
    this.score[slot] = output.score!;
    this.threshold[slot] = output.threshold!;
  }
}

/** Score as a multiple of its threshold; null where the output has none. */
export function scoreRatio(output: Sample["output"] | null): number | null {
  if (output?.score === undefined || output.threshold === undefined || output.threshold <= 0) return null;
  return Math.max(0, output.score / output.threshold);
}

export class Series {
  readonly features: number;
  readonly tiers: ReadonlyMap<string, Tier>;
  /** The committed sample with the greatest id. */
  latest: Sample | null = null;
  /** Time of the newest reading drawn (ms), -Infinity before the first. */
  newestAt = -Infinity;
  /** Versions that answered, `model/version`, in the order in which they were met. */
  readonly versions: string[] = [];
  /** Rises with every fold: whoever draws compares it. */
  revision = 0;

  constructor(features: number) {
    this.features = features;
    this.tiers = new Map(WINDOWS.map((window) => [window.id, new Tier(window.ms, features)]));
  }

  fold(sample: Sample): void {
    const at = drawnAt(sample);
    if (!Number.isFinite(at)) return;
    const version = this.#versionOf(sample);
    for (const tier of this.tiers.values()) tier.fold(at, sample, version);
    if (at > this.newestAt) this.newestAt = at;
    if (this.latest === null || sample.id > this.latest.id) this.latest = sample;
    this.revision += 1;
  }

  #versionOf({ model, version }: Sample): number {
    const name = `${model}/${version}`;
    const known = this.versions.indexOf(name);
    return known >= 0 ? known + 1 : this.versions.push(name);
  }
}
