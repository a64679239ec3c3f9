/**
 * One picture: the buckets of a window as the columns uPlot draws, all plots on the same time axis.
 *
 * Pure. Where readings are missing for longer than a few of their usual intervals a row of nulls breaks
 * the line: a curve never bridges a silence.
 */

import type { Series, Tier, Window } from "./series";
import { Mark } from "./series";
import type { Sample } from "./wire";

type Column = (number | null)[];

export interface SensorColumns {
  low: Column;
  high: Column;
  last: Column;
}

/** A stretch of the time axis to shade, seconds. */
export interface Span {
  mark: Mark;
  from: number;
  to: number;
}

/** From here on another version answers; seconds. */
export interface Turn {
  at: number;
  before: string;
  version: string;
}

export interface Frame {
  /** Bounds of the time axis and its points, Unix seconds (uPlot's unit). */
  from: number;
  to: number;
  x: number[];
  sensors: SensorColumns[];
  ratio: Column;
  score: Column;
  threshold: Column;
  spans: Span[];
  turns: Turn[];
  latest: Sample | null;
}

/** A silence is longer than this many usual intervals. */
const SILENCE_INTERVALS = 5;

/** A window of a young stream is drawn stretched, but never less than this part of it. */
const LEAST_PART = 1 / 8;

/** The window that ends at `end` (ms); null before the first reading. */
export function frameOf(series: Series, window: Window, end: number): Frame | null {
  const tier = series.tiers.get(window.id);
  if (tier === undefined || !Number.isFinite(end)) return null;
  const slots = slotsOf(tier, end - window.ms, end);
  const silence = silenceMs(tier, slots);
  const first = tier.at[slots[0] ?? 0]!;
  const span = Math.min(window.ms, Math.max(end - first, window.ms * LEAST_PART));
  const frame = emptyFrame(series, (end - span) / 1000, end / 1000);
  let before = NaN;
  for (const slot of slots) {
    const at = tier.at[slot]!;
    if (at - before > silence) pushBreak(frame, (before + 1) / 1000);
    pushSlot(frame, tier, slot);
    before = at;
  }
  frame.spans = spansOf(tier, slots, silence);
  frame.turns = turnsOf(series, tier, slots);
  return frame;
}

function emptyFrame(series: Series, from: number, to: number): Frame {
  const sensors = Array.from({ length: series.features }, () => ({ low: [], high: [], last: [] }));
  return { from, to, x: [], sensors, ratio: [], score: [], threshold: [], spans: [], turns: [], latest: series.latest };
}

function slotsOf(tier: Tier, fromMs: number, toMs: number): number[] {
  const slots: number[] = [];
  // One bucket more to the left, so that the line enters from the edge.
  const first = Math.max(Math.floor(fromMs / tier.widthMs) - 1, tier.newest - tier.capacity + 1);
  const last = Math.min(Math.floor(toMs / tier.widthMs), tier.newest);
  for (let number = first; number <= last; number++) {
    const slot = tier.slot(number);
    if (slot >= 0) slots.push(slot);
  }
  return slots;
}

function silenceMs(tier: Tier, slots: number[]): number {
  const steps: number[] = [];
  for (let i = 1; i < slots.length; i++) steps.push(tier.at[slots[i]!]! - tier.at[slots[i - 1]!]!);
  steps.sort((a, b) => a - b);
  const usual = steps[Math.floor(steps.length / 2)] ?? 0;
  return SILENCE_INTERVALS * Math.max(usual, tier.widthMs);
}

function pushBreak(frame: Frame, x: number): void {
  frame.x.push(x);
  for (const { low, high, last } of frame.sensors) for (const column of [low, high, last]) column.push(null);
  for (const column of [frame.ratio, frame.score, frame.threshold]) column.push(null);
}

const orNull = (value: number) => (Number.isNaN(value) ? null : value);

function pushSlot(frame: Frame, tier: Tier, slot: number): void {
  frame.x.push(tier.at[slot]! / 1000);
  frame.sensors.forEach((sensor, f) => {
    const i = slot * tier.features + f;
    sensor.low.push(orNull(tier.low[i]!));
    sensor.high.push(orNull(tier.high[i]!));
    sensor.last.push(orNull(tier.last[i]!));
  });
  frame.ratio.push(orNull(tier.ratio[slot]!));
  frame.score.push(orNull(tier.score[slot]!));
  frame.threshold.push(orNull(tier.threshold[slot]!));
}

/** Neighbours with the same mark are one span; it ends where the next point begins. */
function spansOf(tier: Tier, slots: number[], silence: number): Span[] {
  const spans: Span[] = [];
  let open: Span | null = null;
  let before = NaN;
  for (const slot of slots) {
    const at = tier.at[slot]!;
    const mark = tier.mark[slot]! as Mark;
    const broken = at - before > silence;
    if (open !== null) open.to = (broken ? before : at) / 1000;
    if (open !== null && (broken || open.mark !== mark)) open = null;
    if (open === null && mark !== Mark.None) spans.push((open = { mark, from: at / 1000, to: at / 1000 }));
    before = at;
  }
  return spans;
}

/** Where the version that answers differs from the one before. */
function turnsOf(series: Series, tier: Tier, slots: number[]): Turn[] {
  const turns: Turn[] = [];
  let before = 0;
  for (const slot of slots) {
    const version = tier.version[slot]!;
    if (before !== 0 && version !== 0 && version !== before) {
      turns.push({ at: tier.at[slot]! / 1000, before: series.versions[before - 1]!, version: series.versions[version - 1]! });
    }
    if (version !== 0) before = version;
  }
  return turns;
}

/**
 * The score axis: linear up to the threshold (1), logarithmic above, smooth where they meet, so that
 * quiet scores stay readable beside a peak of a thousand thresholds.
 */
export function squash(ratio: number): number {
  return ratio <= 1 ? ratio : 1 + Math.log(ratio);
}
