/**
 * What an output says, whatever the task: its numbers by name, its label, what it expects ahead of now.
 *
 * Pure readings of `wire.ts`; unknown or broken parts are left out, so that an output of a newer server is
 * shown as far as it is understood.
 */

import type { Output } from "./wire";

export type Task = "anomaly" | "classification" | "regression" | "forecast";

const finite = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

/** Classes with their probabilities, values by name, or a forecast's values by their seconds ahead. */
export function numbersOf(output: Output): [string, number][] {
  const { probabilities, values, horizon } = output;
  const found: [string, unknown][] = Array.isArray(values)
    ? (horizon ?? []).map((seconds, i) => [String(seconds), values[i]])
    : Object.entries(probabilities ?? values ?? {});
  return found.filter((entry): entry is [string, number] => finite(entry[1]));
}

/** Of the label that was chosen; null where the output has none. */
export function probabilityOf(output: Output | null): number | null {
  const share = output?.label === undefined ? undefined : output.probabilities?.[output.label];
  return finite(share) ? share : null;
}

/** Whether it is an answer of its task rather than a reason why there is none. */
export function isAnswer(output: Output): boolean {
  return output.failed === undefined && output.skipped === undefined && output.calibrating === undefined;
}

/** Two quantiles that lie as far from the middle, or one alone (`high` is then the same). */
export interface Band {
  name: string;
  low: number[];
  high: number[];
}

/** A forecast as points of the plot, times in Unix seconds, rising. */
export interface Ahead {
  at: number;
  x: number[];
  y: number[];
  /** Widest first. */
  bands: Band[];
}

/** What an output made at `at` (Unix seconds) expects; null where it is no forecast. */
export function aheadOf(output: Output, at: number): Ahead | null {
  const { horizon, values, quantiles } = output;
  if (!Array.isArray(horizon) || !Array.isArray(values)) return null;
  const order = horizon.map((_, i) => i).filter((i) => finite(horizon[i]) && finite(values[i]));
  order.sort((a, b) => horizon[a]! - horizon[b]!);
  if (order.length === 0) return null;
  const pick = (column: number[]) => order.map((i) => column[i] ?? NaN);
  return { at, x: order.map((i) => at + horizon[i]!), y: pick(values), bands: bandsOf(quantiles ?? {}, pick) };
}

function bandsOf(quantiles: Record<string, number[]>, pick: (column: number[]) => number[]): Band[] {
  const names = Object.keys(quantiles).filter((name) => finite(Number(name)) && Array.isArray(quantiles[name]));
  names.sort((a, b) => Number(a) - Number(b));
  const bands: Band[] = [];
  while (names.length > 0) {
    const low = names.shift()!;
    // A pair is as far from the middle on both sides; what has no partner stands alone.
    const partner = names.findIndex((name) => Math.abs(Number(name) + Number(low) - 1) < 1e-6);
    const high = partner >= 0 ? names.splice(partner, 1)[0]! : low;
    const name = low === high ? low : `${low} to ${high}`;
    bands.push({ name, low: pick(quantiles[low]!), high: pick(quantiles[high]!) });
  }
  return bands;
}
