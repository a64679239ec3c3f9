import { describe, expect, it } from "vitest";
import { ANOMALY_HOLD_MS, conditionOf, countRows, filterRows, mixedServing, type Row, rowOfInfo, rowOfSample, sortRows } from "./fleet";
import type { DeviceInfo, Output, Sample } from "./wire";

const NOW = 1_770_000_000_000;
const base: Row = {
  key: "pump-health/rig-1",
  endpoint: "pump-health",
  device: "rig-1",
  online: true,
  changedAt: 0,
  lastSeen: NOW,
  lastSeq: 1,
  output: { score: 1, threshold: 2, anomaly: false },
  served: "mewma/1.0.0",
  anomalyAt: 0,
};
const row = (device: string, more: Partial<Row> = {}): Row => ({ ...base, device, key: `pump-health/${device}`, ...more });
const output = (more: Output): Partial<Row> => ({ output: more });
const sample = (more: Partial<Sample> = {}): Sample => ({
  id: 1, endpoint: "pump-health", device: "rig-1", epoch: 0, seq: 2, ts: NOW, received_at: NOW, values: [],
  output: { score: 1, threshold: 2, anomaly: false }, model: "mewma", version: "1.0.0", arm: null, latency_us: 3, ...more,
});
const known: DeviceInfo = {
  endpoint: "pump-health", device: "rig-1", online: true, epoch: 0, last_seq: 1, last_ts: NOW, last_seen: NOW - 500,
  samples: 2, model: "mewma", version: "1.0.0", output: null,
};
const names = (rows: Row[]) => rows.map((r) => r.device);

describe("condition", () => {
  it.each([
    ["anomaly", output({ score: 3, threshold: 2, anomaly: true })],
    ["failed", output({ failed: "not finite" })],
    ["calibrating", output({ calibrating: { seen: 3, needed: 400 } })],
    ["normal", {}],
    ["predicting", output({ label: "worn", probabilities: { worn: 0.9, ok: 0.1 } })],
    ["predicting", output({ values: { hours_left: 4 } })],
    ["predicting", output({ horizon: [10], values: [4] })],
    ["waiting", output({ skipped: "late" })],
    ["waiting", { output: null }],
    ["offline", { online: false }],
  ] as const)("is %s", (expected, more) => {
    expect(conditionOf(row("rig-1", more), NOW)).toBe(expected);
  });

  it("holds an anomaly for a moment after its last reading", () => {
    const calmed = rowOfSample(sample({ seq: 3 }), NOW + 100, row("rig-1", { anomalyAt: NOW }));
    expect(conditionOf(calmed, NOW + 100)).toBe("anomaly");
    expect(conditionOf(calmed, NOW + ANOMALY_HOLD_MS)).toBe("normal");
  });
});

describe("who serves", () => {
  it("follows the version of the last reading, from the list and live", () => {
    expect(rowOfInfo(known).served).toBe("mewma/1.0.0");
    expect(rowOfInfo({ ...known, model: null, version: null }).served).toBeNull();
    expect(rowOfSample(sample({ version: "1.1.0" }), NOW, rowOfInfo(known)).served).toBe("mewma/1.1.0");
  });

  it("is counted only where versions differ among the devices online", () => {
    const rows = [row("a"), row("b", { served: "mewma/1.1.0" }), row("c"), row("d", { endpoint: "rig-state", served: "forest/1.0.0" })];
    expect(mixedServing(rows)).toEqual([{ endpoint: "pump-health", versions: [["mewma/1.0.0", 2], ["mewma/1.1.0", 1]] }]);
    expect(mixedServing([row("a"), row("b", { served: "mewma/0.9.0", online: false }), row("c", { served: null })])).toEqual([]);
  });
});

it("keeps the answer of a row when a late reading was skipped", () => {
  const late = rowOfSample(sample({ output: { skipped: "late" }, version: "0.9.0" }), NOW, row("rig-1"));
  expect([late.output, late.served]).toEqual([base.output, "mewma/1.0.0"]);
});

describe("coming and going", () => {
  it("stays offline when the last reading arrives after the farewell", () => {
    const gone = row("rig-1", { online: false, changedAt: NOW });
    expect(rowOfSample(sample({ received_at: NOW - 20 }), NOW, gone).online).toBe(false);
  });

  it("is back when it sends again later", () => {
    const gone = row("rig-1", { online: false, changedAt: NOW - 60_000 });
    expect(rowOfSample(sample(), NOW, gone).online).toBe(true);
  });

  it("stays offline when events missed during a cut are told again", () => {
    const gone = rowOfInfo({ ...known, online: false, last_seen: NOW });
    expect(rowOfSample(sample({ received_at: NOW - 20 }), NOW + 9_000, gone).online).toBe(false);
  });

  it("does not let an older answer of the API undo what the socket brought", () => {
    expect(rowOfInfo(known, row("rig-1", { lastSeq: 7 }))).toMatchObject({ lastSeq: 7 });
    expect(rowOfInfo({ ...known, last_seen: NOW + 1, last_seq: 9 }, row("rig-1"))).toMatchObject({ lastSeq: 9, output: null });
  });
});

describe("the list", () => {
  const rows = [
    row("rig-10"),
    row("rig-2", { online: false }),
    row("rig-3", output({ calibrating: { seen: 1, needed: 2 } })),
    row("rig-9", output({ score: 9, threshold: 2, anomaly: true })),
    row("rig-1"),
  ];

  it("brings anomalies to the top and keeps the order of names within a state", () => {
    expect(names(sortRows(rows, "state", NOW))).toEqual(["rig-9", "rig-3", "rig-1", "rig-10", "rig-2"]);
  });

  it("sorts names with their numbers", () => {
    expect(names(sortRows(rows, "name", NOW))).toEqual(["rig-1", "rig-2", "rig-3", "rig-9", "rig-10"]);
  });

  it("sorts by score over threshold", () => {
    expect(names(sortRows(rows, "score", NOW))[0]).toBe("rig-9");
  });

  it("is filtered by label and by version", () => {
    const mixed = [row("a", output({ label: "Worn" })), row("b", { served: "forest/2.0.0" })];
    expect(names(filterRows(mixed, "worn", NOW))).toEqual(["a"]);
    expect(names(filterRows(mixed, "forest/2", NOW))).toEqual(["b"]);
  });

  it("is filtered by every word, states included", () => {
    expect(names(filterRows(rows, "RIG-1", NOW))).toEqual(["rig-10", "rig-1"]);
    expect(names(filterRows(rows, "pump offline", NOW))).toEqual(["rig-2"]);
    expect(filterRows(rows, "  ", NOW)).toHaveLength(5);
  });

  it("counts its states", () => {
    expect(countRows(rows, NOW)).toMatchObject({ anomaly: 1, calibrating: 1, normal: 2, offline: 1 });
  });
});
