/** Numbers, times and outputs as people read them. Pure; English, 24-hour clock, local time zone. */

import { numbersOf, probabilityOf } from "./output";
import { scoreRatio } from "./series";
import type { Tally } from "./trouble";
import type { Output } from "./wire";

const MINUS = "\u2212";
const signed = (text: string) => text.replace("-", MINUS);

/** Four significant digits, without an exponent where a person would not write one. */
export function number(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6 || size < 1e-4) return signed(value.toExponential(2));
  const digits = Math.min(4, Math.max(0, 3 - Math.floor(Math.log10(size))));
  return signed(value.toFixed(digits));
}

/** A rate a second: whole above 10, one digit below. */
export function rate(value: number): string {
  if (value >= 10_000) return `${(value / 1000).toFixed(1)}k`;
  return value >= 10 ? Math.round(value).toLocaleString("en") : value.toFixed(1).replace(/\.0$/, "");
}

export function ago(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 5) return "now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  return s < 86_400 ? `${Math.floor(s / 3600)} h ago` : `${Math.floor(s / 86_400)} d ago`;
}

export function duration(seconds: number): string {
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

const two = (n: number) => String(n).padStart(2, "0");

/** `14:03:22`, with `tenths` `14:03:22.4`; the date too when it is not today's. */
export function clock(ms: number, now: number, tenths = false): string {
  const t = new Date(ms);
  const time = `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}`;
  const fine = tenths ? `${time}.${Math.floor(t.getMilliseconds() / 100)}` : time;
  if (t.toDateString() === new Date(now).toDateString()) return fine;
  return `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())} ${fine}`;
}

export function micros(us: number): string {
  return us < 1000 ? `${Math.round(us)} µs` : `${number(us / 1000)} ms`;
}

/** `0.82 × threshold`: the same scale as the score plot. */
export function ratio(value: number | null): string {
  if (value === null) return "–";
  return value < 10 ? `${value.toFixed(2)} ×` : `${rate(value)} ×`;
}

export function percent(share: number | null | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  // Rounded down just below the whole: nothing is certain that is not.
  return `${share > 0.99 ? Math.floor(share * 100) : Math.round(share * 100)} %`;
}

/** How far ahead of now: `30 s`, `2 min`. */
export function ahead(seconds: number): string {
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  return seconds < 7200 ? `${Number((seconds / 60).toPrecision(3))} min` : `${Number((seconds / 3600).toPrecision(3))} h`;
}

/** `7`, or `1,000 or more` where not all were kept. */
export function tally({ count, more }: Tally): string {
  return `${count.toLocaleString("en")}${more ? " or more" : ""}`;
}

/** The one number of an answer that a row has room for: a regression's first, a forecast's farthest. */
export function headline(output: Output | null): string | null {
  const numbers = output === null ? [] : numbersOf(output);
  if (output?.horizon !== undefined) {
    const far = numbers.reduce((a, b) => (Number(b[0]) > Number(a[0]) ? b : a), numbers[0] ?? ["", NaN]);
    return numbers.length > 0 ? `${number(far[1])} in ${ahead(Number(far[0]))}` : null;
  }
  const first = output?.values === undefined ? undefined : numbers[0];
  return first === undefined ? null : `${first[0]} ${number(first[1])}`;
}

/** One short phrase for any output, whatever the task. */
export function describe(output: Output | null): string {
  if (output === null) return "no prediction yet";
  if (output.failed !== undefined) return `failed: ${output.failed}`;
  if (output.skipped !== undefined) return `skipped: ${output.skipped}`;
  if (output.calibrating) return `calibrating ${output.calibrating.seen} of ${output.calibrating.needed}`;
  if (output.label !== undefined) {
    const share = probabilityOf(output);
    return share === null ? output.label : `${output.label} ${percent(share)}`;
  }
  if (scoreRatio(output) !== null) return `score ${number(output.score)}, threshold ${number(output.threshold)}`;
  return headline(output) ?? "predicted";
}
