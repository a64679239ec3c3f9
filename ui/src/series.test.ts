import { describe, expect, it } from "vitest";
import { frameOf, squash } from "./frame";
import { drawnAt, Mark, Series, WINDOWS } from "./series";
import type { Output, Sample } from "./wire";

const START = 1_770_000_000_000;
const [twoMin, , hour] = WINDOWS as [(typeof WINDOWS)[0], (typeof WINDOWS)[0], (typeof WINDOWS)[0]];
const calm: Output = { score: 1, threshold: 2, anomaly: false };
const alarm: Output = { score: 6, threshold: 2, anomaly: true };

function sample(seq: number, at: number, values: (number | null)[] = [seq], output: Output = calm): Sample {
  const ids = { id: seq, endpoint: "e", device: "d", epoch: 0, seq, arm: null };
  return { ...ids, ts: at, received_at: at, values, output, model: "m", version: "1.0.0", latency_us: 1 };
}

function folded(samples: Sample[], features = 1): Series {
  const series = new Series(features);
  for (const one of samples) series.fold(one);
  return series;
}

const everySecond = (n: number, output: (i: number) => Output = () => calm) =>
  Array.from({ length: n }, (_, i) => sample(i, START + i * 1000, [i], output(i)));

describe("folding", () => {
  it("keeps low, high and last of a bucket", () => {
    const series = folded([3, 9, 1, 4].map((value, i) => sample(i, START + i * 10, [value])));
    const frame = frameOf(series, twoMin, series.newestAt)!;
    expect(frame.sensors).toEqual([{ low: [1], high: [9], last: [4] }]);
  });

  it("gives the same picture in any order and with repeats", () => {
    const samples = everySecond(300, (i) => (i > 100 && i < 120 ? alarm : calm));
    const forth = folded(samples);
    const back = folded([...samples].reverse().concat(samples.slice(100, 200)));
    for (const window of WINDOWS) {
      expect(frameOf(back, window, back.newestAt)).toEqual(frameOf(forth, window, forth.newestAt));
    }
  });

  it("knows where another version took over, in any order", () => {
    const samples = everySecond(60).map((one, i) => ({ ...one, model: i < 40 ? "m" : "n" }));
    const turn = { at: START / 1000 + 40, before: "m/1.0.0", version: "n/1.0.0" };
    for (const series of [folded(samples), folded([...samples].reverse())]) {
      expect(frameOf(series, twoMin, series.newestAt)!.turns).toEqual([turn]);
    }
    expect(frameOf(folded(everySecond(60)), twoMin, START + 60_000)!.turns).toEqual([]);
  });

  it("does not grow, however long and fast a device sends", () => {
    const series = new Series(1);
    for (let i = 0; i < 100_000; i++) series.fold(sample(i, START + i * 40));
    const frame = frameOf(series, hour, series.newestAt)!;
    expect(frame.x.length).toBeLessThanOrEqual(602);
    expect(frame.x[0]! * 1000).toBeGreaterThanOrEqual(series.newestAt - hour.ms - 2 * 6000);
    expect(series.latest?.seq).toBe(99_999);
  });

  it("forgets what is older than the ring instead of overwriting newer buckets", () => {
    const series = folded(everySecond(10));
    series.fold(sample(99, START - 86_400_000, [12345]));
    const frame = frameOf(series, twoMin, series.newestAt)!;
    expect(frame.x).toHaveLength(10);
    expect(frame.sensors[0]!.high).not.toContain(12345);
  });

  it("leaves a missing value out", () => {
    const series = folded([sample(0, START, [null, 5])], 2);
    expect(frameOf(series, twoMin, START)!.sensors.map((s) => s.last)).toEqual([[null], [5]]);
  });

  it("draws a sample at its arrival when the device's clock runs ahead", () => {
    const ahead = { ...sample(0, START), ts: START + 400 * 86_400_000 };
    expect(drawnAt(ahead)).toBe(START);
    expect(drawnAt({ ...ahead, ts: START - 5_000_000 })).toBe(START - 5_000_000);
  });
});

describe("a frame", () => {
  it("breaks the line over a silence", () => {
    const series = folded([...everySecond(10), sample(10, START + 60_000)]);
    const frame = frameOf(series, twoMin, series.newestAt)!;
    expect(frame.sensors[0]!.last).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, null, 10]);
  });

  it("joins neighbouring anomalies to one span that ends with the next reading", () => {
    const series = folded(everySecond(10, (i) => (i === 3 || i === 4 || i === 7 ? alarm : calm)));
    const s = START / 1000;
    expect(frameOf(series, twoMin, series.newestAt)!.spans).toEqual([
      { mark: Mark.Anomaly, from: s + 3, to: s + 5 },
      { mark: Mark.Anomaly, from: s + 7, to: s + 8 },
    ]);
  });

  it("does not shade a silence", () => {
    const series = folded([...everySecond(10, () => alarm), sample(10, START + 60_000)]);
    expect(frameOf(series, twoMin, series.newestAt)!.spans[0]).toMatchObject({ to: START / 1000 + 9 });
  });

  it("shows the worst score of a bucket", () => {
    const series = folded([sample(0, START, [0], alarm), sample(1, START + 5, [0], calm)]);
    const frame = frameOf(series, twoMin, START + 5)!;
    expect([frame.ratio, frame.score, frame.threshold]).toEqual([[3], [6], [2]]);
  });

  it("stretches over a young stream, down to an eighth, and never beyond its window", () => {
    const span = (n: number) => {
      const series = folded(everySecond(n));
      const { from, to } = frameOf(series, twoMin, series.newestAt)!;
      return Math.round(to - from);
    };
    expect([2, 61, 121, 500].map(span)).toEqual([15, 60, 120, 120]);
  });

  it("is empty before the first reading", () => {
    const series = new Series(8);
    expect(frameOf(series, twoMin, series.newestAt)).toBeNull();
  });
});

it("squashes scores smoothly where they cross the threshold", () => {
  expect([squash(0), squash(0.5), squash(1)]).toEqual([0, 0.5, 1]);
  const slope = (squash(1.001) - squash(0.999)) / 0.002;
  expect(slope).toBeCloseTo(1, 2);
  expect(squash(1000)).toBeLessThan(9);
});
