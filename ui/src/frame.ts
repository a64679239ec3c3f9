/**
 * One picture: the buckets of a window as the columns uPlot draws, all plots on the same time axis.
 *
 * Pure. Where readings are missing for longer than a few of their usual intervals a row of nulls breaks
 * the line: a curve never bridges a silence.
 */

import { type Ahead, aheadOf } from "./output";
import { type Curve, drawnAt, type Series, type Tier, type Window } from "./series";
import type { Tally } from "./trouble";
import type { Change } from "./versions";
import type { Sample } from "./wire";

export type Column = (number | null)[];

export interface Columns {
  low: Column;
  high: Column;
  last: Column;
}

/** A stretch of the time axis, seconds, with what holds there: a mark, or bits of labels or troubles. */
export interface Span {
  mark: number;
  from: number;
  to: number;
}

export interface Frame {
  /** Bounds of the time axis and its points, Unix seconds (uPlot's unit). */
  from: number;
  to: number;
  x: number[];
  sensors: Columns[];
  /** Numbers of the outputs, with their names. */
  outputs: (Columns & { name: string })[];
  ratio: Column;
  score: Column;
  threshold: Column;
  /** Shaded stretches: `Mark`. */
  spans: Span[];
  /** Bits of the labels that were given. */
  labels: Span[];
  /** Bits: `Trouble`. */
  troubles: Span[];
  failed: Tally;
  skipped: Tally;
  changes: Change[];
  /** The newest forecast, while its reading is in the window. */
  ahead: Ahead | null;
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
  const frame = emptyFrame(series, tier, end - span, end);
  let before = NaN;
  for (const slot of slots) {
    const at = tier.at[slot]!;
    if (at - before > silence) pushBreak(frame, (before + 1) / 1000);
    pushSlot(frame, tier, slot);
    before = at;
  }
  const spans = (column: ArrayLike<number>) => spansOf(tier, slots, silence, column);
  // What a version before the window called its outputs is not of this picture.
  const outputs = frame.outputs.filter(({ last }) => last.some((value) => value !== null));
  return { ...frame, outputs, spans: spans(tier.mark), labels: spans(tier.labels), troubles: spans(tier.trouble) };
}

const emptyColumns = (): Columns => ({ low: [], high: [], last: [] });

function emptyFrame(series: Series, tier: Tier, fromMs: number, toMs: number): Frame {
  return {
    from: fromMs / 1000,
    to: toMs / 1000,
    x: [],
    sensors: tier.sensors.map(emptyColumns),
    outputs: tier.outputs.map((_, i) => ({ name: series.outputs.list[i] ?? "", ...emptyColumns() })),
    ratio: [],
    score: [],
    threshold: [],
    spans: [],
    labels: [],
    troubles: [],
    failed: series.troubles.tally("failed", fromMs, toMs),
    skipped: series.troubles.tally("skipped", fromMs, toMs),
    changes: series.versions.between(fromMs, toMs),
    ahead: newestAhead(series.answered, fromMs, toMs),
    latest: series.latest,
  };
}

function newestAhead(answered: Sample | null, fromMs: number, toMs: number): Ahead | null {
  if (answered === null) return null;
  const at = drawnAt(answered);
  return at < fromMs || at > toMs ? null : aheadOf(answered.output, at / 1000);
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
  for (const { low, high, last } of [...frame.sensors, ...frame.outputs]) for (const column of [low, high, last]) column.push(null);
  for (const column of [frame.ratio, frame.score, frame.threshold]) column.push(null);
}

const orNull = (value: number) => (Number.isNaN(value) ? null : value);

function pushSlot(frame: Frame, tier: Tier, slot: number): void {
  frame.x.push(tier.at[slot]! / 1000);
  frame.sensors.forEach((columns, f) => pushCurve(columns, tier.sensors[f]!, slot));
  frame.outputs.forEach((columns, i) => pushCurve(columns, tier.outputs[i]!, slot));
  frame.ratio.push(orNull(tier.ratio[slot]!));
  frame.score.push(orNull(tier.score[slot]!));
  frame.threshold.push(orNull(tier.threshold[slot]!));
}

function pushCurve(columns: Columns, curve: Curve, slot: number): void {
  columns.low.push(orNull(curve.low[slot]!));
  columns.high.push(orNull(curve.high[slot]!));
  columns.last.push(orNull(curve.last[slot]!));
}

/** Neighbours with the same mark are one span; it ends where the next point begins. */
function spansOf(tier: Tier, slots: number[], silence: number, column: ArrayLike<number>): Span[] {
  const spans: Span[] = [];
  let open: Span | null = null;
  let before = NaN;
  for (const slot of slots) {
    const at = tier.at[slot]!;
    const mark = column[slot]!;
    const broken = at - before > silence;
    if (open !== null) open.to = (broken ? before : at) / 1000;
    if (open !== null && (broken || open.mark !== mark)) open = null;
    if (open === null && mark !== 0) spans.push((open = { mark, from: at / 1000, to: at / 1000 }));
    before = at;
  }
  return spans;
}

/**
 * The score axis: linear up to the threshold (1), logarithmic above, smooth where they meet, so that
 * quiet scores stay readable beside a peak of a thousand thresholds.
 */
export function squash(ratio: number): number {
  return ratio <= 1 ? ratio : 1 + Math.log(ratio);
}

/** Of a forecast's steps, whose names are seconds, the one least far ahead; -1 without any. */
export function nearestStep({ outputs }: Frame): number {
  return outputs.reduce((best, { name }, i) => (best < 0 || Number(name) < Number(outputs[best]!.name) ? i : best), -1);
}

/**
 * The sensor that a forecast is most likely about where its head names none: the one that its nearest step lies closest
 * to. Null where none is within a quarter of its size.
 */
export function likelyTarget(frame: Frame): number | null {
  const nearest = frame.outputs[nearestStep(frame)]?.last ?? [];
  const away = frame.sensors.map(({ last }) => {
    const pairs = nearest.flatMap((y, i) => (y === null || last[i] == null ? [] : [[y, last[i]!] as const]));
    const size = pairs.reduce((sum, [y, v]) => sum + Math.abs(y) + Math.abs(v), 0) / 2;
    return size > 0 ? pairs.reduce((sum, [y, v]) => sum + Math.abs(y - v), 0) / size : Infinity;
  });
  const best = Math.min(...away);
  return best < 0.25 ? away.indexOf(best) : null;
}
