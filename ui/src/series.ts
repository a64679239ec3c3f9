/**
 * The curves of one device, folded as they come: bounded memory at any rate and for any time.
 *
 * For each window the page offers there is a tier of time buckets in a ring, each with the least,
 * greatest and last value of every sensor and every number of the outputs, the worst score, and which labels and
 * failures it saw. Folding is idempotent and takes samples in any order,
 * so history fetched over HTTP may overlap what the socket already brought. Knows no drawing.
 */

import { MAX_LABELS, Names, OTHER_LABEL } from "./names";
import { isAnswer, numbersOf } from "./output";
import { Troubles } from "./trouble";
import { tellsVersion, versionOf, Versions } from "./versions";
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
/** Numbers of an output that get a curve: classes, values or steps ahead. */
export const MAX_OUTPUTS = 16;
/** A device clock further ahead of the server than this is not believed. */
const AHEAD_MS = 60_000;

export const enum Mark {
  None = 0,
  Calibrating = 1,
  Anomaly = 2,
}

/** Bits: a bucket may hold both. */
export const enum Trouble {
  None = 0,
  Failed = 1,
  Skipped = 2,
}

/** Where on the time axis a sample is drawn: its own time, or its arrival when its clock runs ahead. */
export function drawnAt(sample: Sample): number {
  return sample.ts > sample.received_at + AHEAD_MS ? sample.received_at : sample.ts;
}

/** Least, greatest and last value of one quantity a bucket; NaN where there was none. */
export class Curve {
  readonly low: Float32Array;
  readonly high: Float32Array;
  readonly last: Float32Array;

  constructor(capacity: number) {
    this.low = new Float32Array(capacity).fill(NaN);
    this.high = new Float32Array(capacity).fill(NaN);
    this.last = new Float32Array(capacity).fill(NaN);
  }

  clear(slot: number): void {
    this.low[slot] = this.high[slot] = this.last[slot] = NaN;
  }

  fold(slot: number, value: number, isLast: boolean): void {
    // Negated, so that the NaN of an empty bucket takes the value.
    if (!(this.low[slot]! <= value)) this.low[slot] = value;
    if (!(this.high[slot]! >= value)) this.high[slot] = value;
    if (isLast || Number.isNaN(this.last[slot]!)) this.last[slot] = value;
  }
}

/** A sample's output as the tiers take it: numbers by the number of their curve. */
interface Answer {
  numbers: [curve: number, value: number][];
  /** Bit of its label, 0 without one. */
  label: number;
  trouble: Trouble;
}

/** One ring of buckets; a slot belongs to the bucket number it holds. */
export class Tier {
  readonly widthMs: number;
  readonly capacity: number;
  readonly bucket: Float64Array;
  readonly at: Float64Array;
  readonly sensors: readonly Curve[];
  /** Grows with the outputs' names, which are bounded. */
  readonly outputs: Curve[] = [];
  /** Of the reading with the greatest score / threshold in the bucket; NaN without a score. */
  readonly ratio: Float32Array;
  readonly score: Float32Array;
  readonly threshold: Float32Array;
  readonly mark: Uint8Array;
  readonly trouble: Uint8Array;
  /** One bit a label. */
  readonly labels: Uint32Array;
  newest = -Infinity;

  constructor(windowMs: number, features: number) {
    this.widthMs = windowMs / BUCKETS;
    this.capacity = Math.ceil(BUCKETS * SPARE) + 1;
    this.bucket = new Float64Array(this.capacity).fill(NaN);
    this.at = new Float64Array(this.capacity);
    this.sensors = Array.from({ length: features }, () => new Curve(this.capacity));
    this.ratio = new Float32Array(this.capacity);
    this.score = new Float32Array(this.capacity);
    this.threshold = new Float32Array(this.capacity);
    this.mark = new Uint8Array(this.capacity);
    this.trouble = new Uint8Array(this.capacity);
    this.labels = new Uint32Array(this.capacity);
  }

  /** Slot of a bucket number, or -1 when nothing is there. */
  slot(number: number): number {
    const slot = this.#slotOf(number);
    return this.bucket[slot] === number ? slot : -1;
  }

  fold(at: number, sample: Sample, answer: Answer): void {
    const number = Math.floor(at / this.widthMs);
    if (number <= this.newest - this.capacity) return;
    const slot = this.#slotOf(number);
    if (this.bucket[slot] !== number) this.#clear(slot, number);
    if (number > this.newest) this.newest = number;
    const isLast = at >= this.at[slot]!;
    if (isLast) this.at[slot] = at;
    this.sensors.forEach((sensor, f) => {
      const value = sample.values[f];
      if (value !== null && value !== undefined) sensor.fold(slot, value, isLast);
    });
    this.#foldScore(slot, sample);
    this.#foldAnswer(slot, answer, isLast);
  }

  #slotOf(number: number): number {
    return ((number % this.capacity) + this.capacity) % this.capacity;
  }

  #clear(slot: number, number: number): void {
    this.bucket[slot] = number;
    this.at[slot] = -Infinity;
    for (const curve of this.sensors) curve.clear(slot);
    for (const curve of this.outputs) curve.clear(slot);
    this.ratio[slot] = this.score[slot] = this.threshold[slot] = NaN;
    this.mark[slot] = this.trouble[slot] = this.labels[slot] = 0;
  }

  #foldScore(slot: number, { output }: Sample): void {
    const mark = output.anomaly ? Mark.Anomaly : output.calibrating ? Mark.Calibrating : Mark.None;
    if (mark > this.mark[slot]!) this.mark[slot] = mark;
    const ratio = scoreRatio(output);
    if (ratio === null || this.ratio[slot]! >= ratio) return;
    this.ratio[slot] = ratio;
    this.score[slot] = output.score!;
    this.threshold[slot] = output.threshold!;
  }

  #foldAnswer(slot: number, { numbers, label, trouble }: Answer, isLast: boolean): void {
    for (const [curve, value] of numbers) {
      while (this.outputs.length <= curve) this.outputs.push(new Curve(this.capacity));
      this.outputs[curve]!.fold(slot, value, isLast);
    }
    this.labels[slot]! |= label;
    this.trouble[slot]! |= trouble;
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
  /** Names of the outputs' curves. */
  readonly outputs = new Names(MAX_OUTPUTS);
  readonly labels: Names;
  readonly versions = new Versions();
  readonly troubles = new Troubles();
  /** The committed sample with the greatest id. */
  latest: Sample | null = null;
  /** The newest that was answered. */
  answered: Sample | null = null;
  /** Time of the newest reading drawn (ms), -Infinity before the first. */
  newestAt = -Infinity;
  /** Rises with every fold: whoever draws compares it. */
  revision = 0;

  /** `labels` may be shared, so that a label has one colour on the whole page. */
  constructor(features: number, labels = new Names(MAX_LABELS)) {
    this.features = features;
    this.labels = labels;
    this.tiers = new Map(WINDOWS.map((window) => [window.id, new Tier(window.ms, features)]));
  }

  fold(sample: Sample): void {
    const at = drawnAt(sample);
    if (!Number.isFinite(at)) return;
    const answer = this.#answerOf(sample);
    for (const tier of this.tiers.values()) tier.fold(at, sample, answer);
    if (tellsVersion(sample)) this.versions.fold(sample.id, at, versionOf(sample));
    this.troubles.fold(sample, at);
    if (at > this.newestAt) this.newestAt = at;
    if (this.latest === null || sample.id > this.latest.id) this.latest = sample;
    if (isAnswer(sample.output) && (this.answered === null || sample.id > this.answered.id)) this.answered = sample;
    this.revision += 1;
  }

  #answerOf({ output }: Sample): Answer {
    const named = numbersOf(output).map(([name, value]): [number, number] => [this.outputs.number(name), value]);
    nameLabels(output, this.labels);
    const trouble = output.failed !== undefined ? Trouble.Failed : output.skipped !== undefined ? Trouble.Skipped : Trouble.None;
    return { numbers: named.filter(([curve]) => curve >= 0), label: labelBit(output.label, this.labels), trouble };
  }
}

/** Numbers the classes in the model's own order, before any of them was chosen. */
export function nameLabels({ label, probabilities }: Sample["output"], labels: Names): void {
  for (const name of Object.keys(probabilities ?? {})) labels.number(name);
  if (label !== undefined) labels.number(label);
}

function labelBit(label: string | undefined, labels: Names): number {
  if (label === undefined) return 0;
  const number = labels.find(label);
  return (1 << (number >= 0 ? number : OTHER_LABEL)) >>> 0;
}
