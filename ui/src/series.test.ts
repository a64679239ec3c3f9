import { describe, expect, it } from "vitest";
import { frameOf, likelyTarget, squash } from "./frame";
import { drawnAt, Mark, MAX_OUTPUTS, Series, Trouble, WINDOWS } from "./series";
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

describe("outputs of other tasks", () => {
  const s = START / 1000;
  const worn = (share: number): Output => ({ label: share > 0.5 ? "worn" : "ok", probabilities: { ok: 1 - share, worn: share } });

  it("draws a curve a class and one stretch a label", () => {
    const series = folded(everySecond(6, (i) => worn(i < 3 ? 0.25 : 0.75)));
    const frame = frameOf(series, twoMin, series.newestAt)!;
    expect(series.labels.list).toEqual(["ok", "worn"]);
    expect(frame.outputs.map(({ name, last }) => [name, ...last])).toEqual([
      ["ok", 0.75, 0.75, 0.75, 0.25, 0.25, 0.25],
      ["worn", 0.25, 0.25, 0.25, 0.75, 0.75, 0.75],
    ]);
    expect(frame.labels).toEqual([{ mark: 1, from: s, to: s + 3 }, { mark: 2, from: s + 3, to: s + 5 }]);
  });

  it("keeps every label of a bucket, however short it was given", () => {
    const series = folded([0.1, 0.9, 0.1].map((share, i) => sample(i, START + i, [0], worn(share))));
    expect(frameOf(series, hour, series.newestAt)!.labels).toMatchObject([{ mark: 0b11 }]);
  });

  it("does not grow with the names a model invents", () => {
    const series = new Series(1);
    for (let i = 0; i < 500; i++) series.fold(sample(i, START + i * 1000, [i], { label: `l${i}`, probabilities: { [`l${i}`]: 1 } }));
    const frame = frameOf(series, hour, series.newestAt)!;
    expect(frame.outputs).toHaveLength(MAX_OUTPUTS);
    expect(series.labels.list).toHaveLength(31);
    expect(frame.labels.at(-1)!.mark).toBe(2 ** 31);
  });

  it("leaves out what a version before the window called its outputs", () => {
    const series = folded([sample(0, START, [1], { values: { old: 1 } }), sample(1, START + 300_000, [1], { values: { fresh: 2 } })]);
    const named = (window: (typeof WINDOWS)[number]) => frameOf(series, window, series.newestAt)!.outputs.map(({ name }) => name);
    expect([named(twoMin), named(hour)]).toEqual([["fresh"], ["old", "fresh"]]);
  });

  it("leaves holes where nothing was answered, and marks why", () => {
    const outputs: Output[] = [{ values: { hours: 5 } }, { failed: "step panicked" }, { skipped: "late" }, { values: { hours: 4 } }];
    const series = folded(everySecond(4, (i) => outputs[i]!));
    for (const again of everySecond(4, (i) => outputs[i]!)) series.fold(again);
    const frame = frameOf(series, twoMin, series.newestAt)!;
    expect(frame.outputs[0]!.last).toEqual([5, null, null, 4]);
    expect(frame.sensors[0]!.last).toEqual([0, 1, 2, 3]);
    expect(frame.troubles).toEqual([{ mark: Trouble.Failed, from: s + 1, to: s + 2 }, { mark: Trouble.Skipped, from: s + 2, to: s + 3 }]);
    expect(frame.failed).toMatchObject({ count: 1, more: false, last: { reason: "step panicked" } });
    expect(frame.skipped).toMatchObject({ count: 1, last: { reason: "late", at: START + 2000 } });
  });

  it("shows the newest forecast, also when a later step failed, until its reading left the window", () => {
    const forecast: Output = { horizon: [60, 10], values: [3, 2], quantiles: { "0.9": [5, 4], "0.1": [1, 0] } };
    const series = folded([sample(0, START, [1], forecast), sample(1, START + 1000, [1], { failed: "no" })]);
    const { ahead } = frameOf(series, twoMin, series.newestAt)!;
    expect(ahead).toEqual({ at: s, x: [s + 10, s + 60], y: [2, 3], bands: [{ name: "0.1 to 0.9", low: [0, 1], high: [4, 5] }] });
    series.fold(sample(2, START + 200_000, [1], { failed: "no" }));
    expect(frameOf(series, twoMin, series.newestAt)!.ahead).toBeNull();
  });

  it("takes the sensor that forecasts lie close to as their likely target, and none that is far", () => {
    const about = (y: number) => folded(Array.from({ length: 5 }, (_, i) => sample(i, START + i * 1000, [20, 70 + i], { horizon: [9], values: [y] })), 2);
    const target = (series: Series) => likelyTarget(frameOf(series, twoMin, series.newestAt)!);
    expect([about(71), about(500)].map(target)).toEqual([1, null]);
  });
});

describe("a change of version", () => {
  const served = (id: number, version: string, more: Partial<Sample> = {}) => ({ ...sample(id, START + id * 1000), version, ...more });
  const changes = (samples: Sample[]) => frameOf(folded(samples), twoMin, START + 100_000)!.changes;
  const stream = Array.from({ length: 60 }, (_, i) => served(i, i < 20 ? "1.0.0" : i < 40 ? "1.1.0" : "1.0.0"));
  const expected = [
    { at: START + 20_000, before: "m/1.0.0", version: "m/1.1.0" },
    { at: START + 40_000, before: "m/1.1.0", version: "m/1.0.0" },
  ];

  it("is marked at the first reading the new version answered, and no reading is missing", () => {
    expect(changes(stream)).toEqual(expected);
    expect(frameOf(folded(stream), twoMin, START + 100_000)!.x).toHaveLength(60);
  });

  it("is the same in any order and with repeats", () => {
    expect(changes([...stream].reverse())).toEqual(expected);
    expect(changes([...stream.slice(50), ...stream.slice(0, 30), ...stream.slice(10)])).toEqual(expected);
    const shuffled = stream.map((one, i) => stream[(i * 37) % 60] ?? one);
    expect(changes(shuffled)).toEqual(expected);
  });

  it("is not made up from a late reading or an import", () => {
    const odd = [served(70, "0.9.0", { output: { skipped: "late" } }), served(71, "0.9.0", { flags: ["historical", "import"] })];
    expect(changes([...stream, ...odd])).toEqual(expected);
  });

  it("is forgotten, oldest first, when a stream changes without end", () => {
    const restless = Array.from({ length: 100_000 }, (_, i) => served(i, `${i % 2}`, { ts: START + i, received_at: START + i }));
    const found = frameOf(folded(restless), twoMin, START + 100_000)!.changes;
    expect(found.length).toBeLessThanOrEqual(64);
    expect(found.at(-1)).toEqual({ at: START + 99_999, before: "m/0", version: "m/1" });
  });
});

it("counts readings without an answer to a bound, and says when there were more", () => {
  const series = folded(everySecond(1_500, () => ({ failed: "no" })));
  expect(frameOf(series, hour, series.newestAt)!.failed).toMatchObject({ count: 1000, more: true });
  expect(frameOf(series, twoMin, series.newestAt)!.failed).toMatchObject({ count: 121, more: false });
});

it("squashes scores smoothly where they cross the threshold", () => {
  expect([squash(0), squash(0.5), squash(1)]).toEqual([0, 0.5, 1]);
  const slope = (squash(1.001) - squash(0.999)) / 0.002;
  expect(slope).toBeCloseTo(1, 2);
  expect(squash(1000)).toBeLessThan(9);
});
