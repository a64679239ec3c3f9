/**
 * What is painted on a plot beside its curves: shading, changes of version, readings without an answer, the band of
 * labels, the threshold, and a forecast with its quantiles.
 *
 * Every function takes a uPlot whose canvas is being drawn, clips to the plot's box and leaves the context as it was.
 */

import type uPlot from "uplot";
import { type Column, type Frame, nearestStep, type Span } from "./frame";
import { OTHER_LABEL } from "./names";
import type { Ahead } from "./output";
import { Mark, Trouble } from "./series";
import { classColour, theme } from "./theme";

/** A shorter span would vanish between two pixels. */
const MIN_SPAN_PX = 2;
const TROUBLE_PX = 5;
const px = (n: number) => n * devicePixelRatio;

function inside(u: uPlot, paint: (ctx: CanvasRenderingContext2D) => void): void {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  paint(ctx);
  ctx.restore();
}

function edges(u: uPlot, { from, to }: Span, least: number): [left: number, width: number] {
  const [a, b] = [u.valToPos(from, "x", true), u.valToPos(to, "x", true)];
  return [a, Math.max(b - a, px(least))];
}

export function drawSpans(u: uPlot, frame: Frame): void {
  inside(u, (ctx) => {
    for (const span of frame.spans) {
      const [a, width] = edges(u, span, MIN_SPAN_PX);
      ctx.fillStyle = span.mark === Mark.Anomaly ? theme().anomaly : theme().calibrating;
      ctx.fillRect(a, u.bbox.top, width, u.bbox.height);
    }
  });
}

/** Failed along the upper edge, skipped along the lower: told apart without colour. */
export function drawTroubles(u: uPlot, frame: Frame): void {
  const { top, height } = u.bbox;
  inside(u, (ctx) => {
    for (const span of frame.troubles) {
      const [a, width] = edges(u, span, 3);
      ctx.fillStyle = theme().failed;
      if (span.mark & Trouble.Failed) ctx.fillRect(a, top, width, px(TROUBLE_PX));
      ctx.fillStyle = theme().skipped;
      if (span.mark & Trouble.Skipped) ctx.fillRect(a, top + height - px(TROUBLE_PX), width, px(TROUBLE_PX));
    }
  });
}

/** A thin line where another version took over; `named` writes its name beside it. */
export function drawChanges(u: uPlot, frame: Frame, named: boolean): void {
  const { left, top, width, height } = u.bbox;
  inside(u, (ctx) => {
    ctx.font = scaledFont();
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    // A curve's dash may still be set.
    ctx.setLineDash([]);
    let [row, taken] = [0, -Infinity];
    for (const { at, version } of frame.changes) {
      const x = Math.round(u.valToPos(at / 1000, "x", true)) + 0.5;
      ctx.fillStyle = ctx.strokeStyle = theme().change;
      ctx.lineWidth = px(1.25);
      ctx.beginPath();
      ctx.moveTo(x, top);
      ctx.lineTo(x, top + height);
      ctx.stroke();
      if (!named) continue;
      const size = ctx.measureText(version).width + px(10);
      const from = x + size > left + width ? x - size : x;
      row = from < taken ? (row + 1) % 3 : 0;
      taken = Math.max(taken, from + size);
      const y = top + px(TROUBLE_PX + 2) + row * px(17);
      ctx.fillRect(from, y, size, px(16));
      ctx.fillStyle = theme().surface;
      ctx.fillText(version, from + px(5), y + px(8.5));
    }
  });
}

const scaledFont = () => theme().font.replace(/^(\d+)px/, (_, size: string) => `${px(Number(size))}px`);

/** One row of colour over time, with the label's name where it fits; several labels in a bucket share its height. */
export function drawLabels(u: uPlot, frame: Frame, names: readonly string[]): void {
  const { left, top, width, height } = u.bbox;
  inside(u, (ctx) => {
    ctx.font = scaledFont();
    ctx.textBaseline = "middle";
    ctx.textAlign = "left";
    for (const span of frame.labels) {
      const present = bitsOf(span.mark);
      const [a, wide] = edges(u, span, MIN_SPAN_PX);
      const tall = height / present.length;
      present.forEach((label, i) => {
        const y = top + i * tall;
        ctx.fillStyle = classColour(label);
        ctx.globalAlpha = 0.32;
        ctx.fillRect(a, y, wide, tall);
        ctx.globalAlpha = 1;
        ctx.fillRect(a, y + tall - px(3), wide, px(3));
        const name = label === OTHER_LABEL ? "other" : (names[label] ?? "");
        const from = Math.max(a, left) + px(6);
        if (from + ctx.measureText(name).width + px(6) > Math.min(a + wide, left + width) || tall < px(14)) return;
        ctx.fillStyle = theme().strong;
        ctx.fillText(name, from, y + (tall - px(3)) / 2 + px(0.5));
      });
    }
  });
}

function bitsOf(mask: number): number[] {
  return Array.from({ length: 32 }, (_, i) => i).filter((i) => (mask >>> i) & 1);
}

export function drawThreshold(u: uPlot): void {
  const { left, width } = u.bbox;
  inside(u, (ctx) => {
    const y = Math.round(u.valToPos(1, "y", true)) + 0.5;
    ctx.strokeStyle = theme().threshold;
    ctx.lineWidth = px(1.5);
    ctx.setLineDash([px(6), px(4)]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
  });
}

/** What lies ahead of now: the newest forecast, what was expected before, and what was expected at the cursor. */
export function drawForecast(u: uPlot, frame: Frame): void {
  inside(u, (ctx) => {
    const { left, top, width, height } = u.bbox;
    const now = u.valToPos(frame.to, "x", true);
    ctx.fillStyle = theme().ahead;
    ctx.globalAlpha = 0.05;
    ctx.fillRect(now, top, left + width - now, height);
    ctx.globalAlpha = 1;
    ctx.lineJoin = "round";
    drawExpected(u, ctx, frame);
    if (frame.ahead !== null) drawAhead(u, ctx, frame.ahead);
    const i = u.cursor.left! >= 0 ? (u.cursor.idx ?? -1) : -1;
    if (i >= 0 && i < frame.x.length - 1) drawPath(u, ctx, ...expectedAt(frame, i), [5, 3], theme().strong);
  });
}

/** The forecast made at a point of the frame. */
function expectedAt(frame: Frame, i: number): [x: number[], y: Column] {
  const steps = frame.outputs.filter(({ last }) => last[i] != null).sort((a, b) => Number(a.name) - Number(b.name));
  return [steps.map(({ name }) => frame.x[i]! + Number(name)), steps.map(({ last }) => last[i]!)];
}

function drawExpected(u: uPlot, ctx: CanvasRenderingContext2D, frame: Frame): void {
  const nearest = frame.outputs[nearestStep(frame)];
  if (nearest === undefined) return;
  const later = Number(nearest.name);
  ctx.globalAlpha = 0.75;
  drawPath(u, ctx, frame.x.map((x) => x + later), nearest.last, []);
  ctx.globalAlpha = 1;
}

function drawAhead(u: uPlot, ctx: CanvasRenderingContext2D, { x, y, bands }: Ahead): void {
  for (const { low, high } of bands) {
    if (low === high) drawPath(u, ctx, x, low, [2, 3]);
    else fillBand(u, ctx, x, low, high);
  }
  drawPath(u, ctx, x, y, [5, 3]);
  for (let i = 0; i < x.length; i++) {
    ctx.beginPath();
    ctx.arc(u.valToPos(x[i]!, "x", true), u.valToPos(y[i]!, "y", true), px(2.75), 0, 2 * Math.PI);
    ctx.fill();
  }
}

function drawPath(u: uPlot, ctx: CanvasRenderingContext2D, x: number[], y: Column, dash: number[], colour = theme().ahead): void {
  ctx.strokeStyle = ctx.fillStyle = colour;
  ctx.lineWidth = px(1.75);
  ctx.setLineDash(dash.map(px));
  ctx.beginPath();
  let open = false;
  y.forEach((value, i) => {
    if (value === null || !Number.isFinite(value)) return void (open = false);
    const [a, b] = [u.valToPos(x[i]!, "x", true), u.valToPos(value, "y", true)];
    if (open) ctx.lineTo(a, b);
    else ctx.moveTo(a, b);
    open = true;
  });
  ctx.stroke();
  ctx.setLineDash([]);
}

/** A single step ahead has no area: it is drawn as an upright bar. */
function fillBand(u: uPlot, ctx: CanvasRenderingContext2D, x: number[], low: number[], high: number[]): void {
  const points = x.map((t, i) => [u.valToPos(t, "x", true), u.valToPos(low[i]!, "y", true), u.valToPos(high[i]!, "y", true)] as const);
  const known = points.filter((point) => point.every(Number.isFinite));
  const only = known.length === 1 ? known[0]! : null;
  ctx.fillStyle = theme().ahead;
  ctx.globalAlpha = 0.2;
  ctx.beginPath();
  if (only !== null) ctx.rect(only[0] - px(4), only[2], px(8), only[1] - only[2]);
  for (const [a, , upper] of only === null ? known : []) ctx.lineTo(a, upper);
  for (const [a, lower] of only === null ? known.reverse() : []) ctx.lineTo(a, lower);
  ctx.fill();
  ctx.globalAlpha = 1;
}
