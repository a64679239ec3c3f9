/**
 * How a frame is drawn: uPlot options for a sensor and for the score, and the data they take.
 *
 * All plots share one time axis and one cursor. Shading lies behind the curves; the band is what a bucket
 * of readings spans, the line its last reading.
 */

import uPlot from "uplot";
import { type Frame, squash } from "./frame";
import { Mark } from "./series";
import { theme } from "./theme";

export type PlotKind = { kind: "sensor"; index: number } | { kind: "score" };

export interface PlotHooks {
  frame: () => Frame;
  onCursor: (index: number | null) => void;
}

const SYNC = "device";
/** A shorter span would vanish between two pixels. */
const MIN_SPAN_PX = 2;

export function plotData(frame: Frame, plot: PlotKind): uPlot.AlignedData {
  if (plot.kind === "score") return [frame.x, frame.ratio.map((r) => (r === null ? null : squash(r)))];
  const sensor = frame.sensors[plot.index];
  return sensor ? [frame.x, sensor.high, sensor.low, sensor.last] : [frame.x, [], [], []];
}

export function plotOptions(plot: PlotKind, width: number, height: number, hooks: PlotHooks): uPlot.Options {
  const score = plot.kind === "score";
  return {
    width,
    height,
    padding: [8, 20, 0, 0],
    legend: { show: false },
    cursor: {
      sync: { key: SYNC, setSeries: false },
      drag: { x: false, y: false },
      points: { show: false },
      y: false,
    },
    scales: {
      x: { time: true, range: () => [hooks.frame().from, hooks.frame().to] },
      y: { range: score ? scoreRange : sensorRange },
    },
    axes: [timeAxis(), score ? scoreAxis() : valueAxis()],
    series: score ? [{}, line(() => theme().score, 1.5)] : [{}, edge(), edge(), line(() => theme().curve, 1.25)],
    ...(score ? {} : { bands: [{ series: [1, 2] as [number, number], fill: () => theme().envelope }] }),
    hooks: {
      drawClear: [(u) => drawSpans(u, hooks.frame())],
      draw: score ? [drawThreshold, (u) => drawTurns(u, hooks.frame(), true)] : [(u) => drawTurns(u, hooks.frame(), false)],
      setCursor: [(u) => hooks.onCursor(u.cursor.left! >= 0 ? (u.cursor.idx ?? null) : null)],
    },
  };
}

const line = (stroke: () => string, width: number): uPlot.Series => ({ stroke, width, points: { show: false } });
const edge = (): uPlot.Series => ({ stroke: "transparent", width: 0, points: { show: false } });

/** Room above and below, and a floor for the span: the noise of a steady sensor must not look like a storm. */
function sensorRange(_: uPlot, min: number | null, max: number | null): [number, number] {
  if (min === null || max === null) return [0, 1];
  const span = Math.max(max - min, Math.abs(max) * 0.002, 1e-9);
  const middle = (min + max) / 2;
  return [middle - span * 0.62, middle + span * 0.62];
}

function scoreRange(_: uPlot, __: number | null, max: number | null): [number, number] {
  return [0, Math.max(1.7, (max ?? 0) + 0.2)];
}

const grid = () => ({ stroke: () => theme().grid, width: 1 });

function timeAxis(): uPlot.Axis {
  return {
    stroke: () => theme().text,
    font: theme().font,
    size: 24,
    gap: 4,
    space: 84,
    grid: { show: false },
    ticks: { show: false },
    values: (_, splits) => splits.map(timeLabel),
  };
}

function timeLabel(seconds: number): string {
  const t = new Date(seconds * 1000);
  const pad = (n: number) => String(n).padStart(2, "0");
  const minutes = `${pad(t.getHours())}:${pad(t.getMinutes())}`;
  return t.getSeconds() === 0 ? minutes : `${minutes}:${pad(t.getSeconds())}`;
}

function valueAxis(): uPlot.Axis {
  return { stroke: () => theme().text, font: theme().font, size: 52, gap: 6, space: 22, grid: grid(), ticks: { show: false } };
}

/** Multiples of the threshold; the axis is linear to 1 and logarithmic above. */
function scoreAxis(): uPlot.Axis {
  const steps = [0, 0.5, 1, 2, 5, 10, 30, 100, 1000, 10_000];
  return {
    ...valueAxis(),
    splits: (_, __, ___, max) => steps.filter((step) => squash(step) <= max).map(squash),
    values: (_, splits) => splits.map((split) => `${steps.find((step) => squash(step) === split)} ×`),
  };
}

function drawSpans(u: uPlot, frame: Frame): void {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  for (const { mark, from, to } of frame.spans) {
    const [a, b] = [u.valToPos(from, "x", true), u.valToPos(to, "x", true)];
    ctx.fillStyle = mark === Mark.Anomaly ? theme().anomaly : theme().calibrating;
    ctx.fillRect(a, top, Math.max(b - a, MIN_SPAN_PX * devicePixelRatio), height);
  }
  ctx.restore();
}

/** A line where another version takes over, with its name where there is room for it. */
function drawTurns(u: uPlot, frame: Frame, named: boolean): void {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = theme().text;
  ctx.lineWidth = devicePixelRatio;
  ctx.font = theme().font;
  ctx.textBaseline = "top";
  for (const { at, version } of frame.turns) {
    const x = Math.round(u.valToPos(at, "x", true)) + 0.5;
    if (x < left || x > left + width) continue;
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    if (!named) continue;
    const room = left + width - x > ctx.measureText(version).width + 6 * devicePixelRatio;
    ctx.textAlign = room ? "left" : "right";
    ctx.fillText(version, x + (room ? 4 : -4) * devicePixelRatio, top + 2 * devicePixelRatio);
  }
  ctx.restore();
}

function drawThreshold(u: uPlot): void {
  const { ctx } = u;
  const y = Math.round(u.valToPos(1, "y", true)) + 0.5;
  ctx.save();
  ctx.strokeStyle = theme().threshold;
  ctx.lineWidth = 1.5 * devicePixelRatio;
  ctx.setLineDash([6 * devicePixelRatio, 4 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(u.bbox.left, y);
  ctx.lineTo(u.bbox.left + u.bbox.width, y);
  ctx.stroke();
  ctx.restore();
}
