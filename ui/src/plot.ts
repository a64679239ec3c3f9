/**
 * How a frame is drawn: uPlot options for each kind of plot, and the data they take.
 *
 * All plots share one time axis and one cursor; a forecast's goes on beyond now. Shading lies behind the curves; the
 * band is what a bucket of readings spans, the line its last reading. What is painted beside curves is `draw.ts`.
 */

import type uPlot from "uplot";
import { drawChanges, drawForecast, drawLabels, drawSpans, drawThreshold, drawTroubles } from "./draw";
import { type Columns, type Frame, nearestStep, squash } from "./frame";
import { classColour, classDash, theme } from "./theme";

export type PlotKind =
  | { kind: "sensor"; index: number }
  | { kind: "score" }
  | { kind: "labels"; names: readonly string[] }
  /** `colours` are the numbers of the classes, in the order of the frame's outputs. */
  | { kind: "classes"; colours: number[] }
  | { kind: "value"; index: number }
  /** `beside` is the sensor whose readings are drawn with the forecast. */
  | { kind: "forecast"; beside: number | null };

export interface PlotHooks {
  frame: () => Frame;
  onCursor: (index: number | null) => void;
}

const SYNC = "device";

export function plotData(frame: Frame, plot: PlotKind): uPlot.AlignedData {
  switch (plot.kind) {
    case "score":
      return [frame.x, frame.ratio.map((r) => (r === null ? null : squash(r)))];
    case "labels":
      return [frame.x, frame.x.map(() => null)];
    case "classes":
      return [frame.x, ...plot.colours.map((_, i) => frame.outputs[i]?.last ?? [])];
    case "value":
      return banded(frame, frame.outputs[plot.index]);
    default:
      return banded(frame, frame.sensors[(plot.kind === "sensor" ? plot.index : plot.beside) ?? -1]);
  }
}

function banded(frame: Frame, columns: Columns | undefined): uPlot.AlignedData {
  const none = columns === undefined ? frame.x.map(() => null) : [];
  return columns ? [frame.x, columns.high, columns.low, columns.last] : [frame.x, none, none, none];
}

export function plotOptions(plot: PlotKind, width: number, height: number, hooks: PlotHooks): uPlot.Options {
  const { frame } = hooks;
  const forecast = plot.kind === "forecast";
  const to = () => (forecast ? forecastEnd(frame()) : frame().to);
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
      x: { time: true, range: () => [frame().from, to()] },
      y: { range: rangeOf(plot, frame) },
    },
    axes: [timeAxis(), valueAxisOf(plot)],
    ...seriesOf(plot),
    hooks: {
      drawClear: [(u) => drawSpans(u, frame()), ...(plot.kind === "labels" ? [(u: uPlot) => drawLabels(u, frame(), plot.names)] : [])],
      draw: paintersOf(plot, frame),
      setCursor: [(u) => hooks.onCursor(u.cursor.left! >= 0 ? (u.cursor.idx ?? null) : null), ...(forecast ? [redrawAtCursor()] : [])],
    },
  };
}

function seriesOf(plot: PlotKind): Pick<uPlot.Options, "series" | "bands"> {
  if (plot.kind === "score") return { series: [{}, line(() => theme().score, 1.5)] };
  if (plot.kind === "labels") return { series: [{}, edge()] };
  if (plot.kind === "classes") {
    const curve = (label: number) => ({ ...line(() => classColour(label), 1.75), dash: classDash(label) });
    return { series: [{}, ...plot.colours.map((label) => curve(Math.max(0, label)))] };
  }
  const stroke = () => (plot.kind === "value" ? theme().score : theme().curve);
  const bands = [{ series: [1, 2] as [number, number], fill: () => theme().envelope }];
  return { series: [{}, edge(), edge(), line(stroke, plot.kind === "sensor" ? 1.25 : 1.5)], bands };
}

type Painter = (u: uPlot) => void;

function paintersOf(plot: PlotKind, frame: () => Frame): Painter[] {
  const changes = (named: boolean) => (u: uPlot) => drawChanges(u, frame(), named);
  const troubles = (u: uPlot) => drawTroubles(u, frame());
  switch (plot.kind) {
    case "sensor":
      return [changes(false)];
    case "score":
      return [drawThreshold, troubles, changes(true)];
    case "labels":
      return [troubles, changes(frame().outputs.length === 0)];
    case "forecast":
      return [(u) => drawForecast(u, frame()), troubles, changes(true)];
    case "value":
      return [troubles, changes(plot.index === 0)];
    case "classes":
      return [changes(true)];
  }
}

/** The forecast made where the cursor stands is part of the picture. */
function redrawAtCursor(): Painter {
  let before: number | null = null;
  return (u) => {
    const index = u.cursor.left! >= 0 ? (u.cursor.idx ?? null) : null;
    if (index === before) return;
    before = index;
    u.redraw(false, false);
  };
}

/** Past the farthest step of the newest forecast, and never less than a little beyond now. */
function forecastEnd({ from, to, ahead }: Frame): number {
  const far = ahead?.x.at(-1) ?? to;
  return Math.max(to, far) + (to - from) * 0.02;
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

type Range = (u: uPlot, min: number | null, max: number | null) => [number, number];

function rangeOf(plot: PlotKind, frame: () => Frame): Range {
  switch (plot.kind) {
    case "score":
      return (_, __, max) => [0, Math.max(1.7, (max ?? 0) + 0.2)];
    case "labels":
      return () => [0, 1];
    case "classes":
      return () => [-0.02, 1.06];
    case "forecast":
      return (u, min, max) => forecastRange(u, frame(), [min, max]);
    default:
      return sensorRange;
  }
}

function forecastRange(u: uPlot, frame: Frame, sensor: (number | null)[]): [number, number] {
  const { ahead } = frame;
  const bands = ahead?.bands.flatMap(({ low, high }) => [...low, ...high]) ?? [];
  const all = [...sensor, ...(ahead?.y ?? []), ...bands, ...(frame.outputs[nearestStep(frame)]?.last ?? [])];
  const known = all.filter((value): value is number => value !== null && Number.isFinite(value));
  return known.length > 0 ? sensorRange(u, Math.min(...known), Math.max(...known)) : sensorRange(u, null, null);
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

function valueAxisOf(plot: PlotKind): uPlot.Axis {
  if (plot.kind === "score") return scoreAxis();
  if (plot.kind === "labels") return { ...valueAxis(), values: () => [], grid: { show: false } };
  if (plot.kind !== "classes") return valueAxis();
  return { ...valueAxis(), splits: () => [0, 0.5, 1], values: (_, splits) => splits.map((share) => `${share * 100} %`) };
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
