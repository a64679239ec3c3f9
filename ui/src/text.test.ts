import { expect, it } from "vitest";
import { ago, ahead, clock, describe as phrase, duration, headline, micros, number, percent, rate, ratio, tally } from "./format";
import { readRoute, writeRoute } from "./route";

it("keeps the chosen device and window in the address", () => {
  const route = { endpoint: "pump-health", device: "plant:7.rig-1", window: "10m", only: null };
  expect(writeRoute(route)).toBe("#/pump-health/plant:7.rig-1?w=10m");
  expect(readRoute(writeRoute(route))).toEqual(route);
});

it("keeps the endpoint that is listed in the address, with and without a device", () => {
  const route = { endpoint: "rig-state", device: "rig-1", window: "10m", only: "rig-state" };
  expect(writeRoute(route)).toBe("#/rig-state/rig-1?w=10m&e=rig-state");
  expect(readRoute(writeRoute(route))).toEqual(route);
  expect(readRoute("#/?e=rig-state")).toEqual({ endpoint: null, device: null, window: "2m", only: "rig-state" });
});

it("reads a broken address as no choice", () => {
  const none = { endpoint: null, device: null, window: "2m", only: null };
  for (const hash of ["", "#", "#/", "#/pump-health", "#/%E0%A4%A/x", "#/?w=7y"]) expect(readRoute(hash)).toEqual(none);
});

it("writes numbers with four digits that mean something", () => {
  const shown = [0, 0.02541, 1.3337, 79.31, 233.14, -4.5, 12345.6, 3.2e7, NaN, null].map(number);
  expect(shown).toEqual(["0", "0.0254", "1.334", "79.31", "233.1", "−4.500", "12346", "3.20e+7", "–", "–"]);
});

it("writes rates, times and latencies shortly", () => {
  expect([0, 2, 0.54, 199.6, 12_345].map(rate)).toEqual(["0", "2", "0.5", "200", "12.3k"]);
  expect([-4, 4_999, 59_000, 3_599_000, 7_200_000, 180_000_000].map(ago)).toEqual(["now", "now", "59 s ago", "59 min ago", "2 h ago", "2 d ago"]);
  expect([59, 61, 7_260, 180_000].map(duration)).toEqual(["59 s", "1 min", "2 h 1 min", "2 d 2 h"]);
  expect([12, 2_500].map(micros)).toEqual(["12 µs", "2.500 ms"]);
  expect([0.824, 12.2, null].map(ratio)).toEqual(["0.82 ×", "12 ×", "–"]);
});

it("adds the date to a time of another day", () => {
  const t = new Date(2026, 1, 3, 14, 5, 9, 450).getTime();
  expect(clock(t, t)).toBe("14:05:09");
  expect(clock(t, t, true)).toBe("14:05:09.4");
  expect(clock(t, t + 86_400_000)).toBe("2026-02-03 14:05:09");
});

it("has a phrase for every output", () => {
  expect(phrase(null)).toBe("no prediction yet");
  expect(phrase({ failed: "not finite" })).toBe("failed: not finite");
  expect(phrase({ skipped: "late" })).toBe("skipped: late");
  expect(phrase({ calibrating: { seen: 3, needed: 400 } })).toBe("calibrating 3 of 400");
  expect(phrase({ label: "worn" })).toBe("worn");
  expect(phrase({ label: "worn", probabilities: { ok: 0.1, worn: 0.9 } })).toBe("worn 90 %");
  expect(phrase({ values: { hours_left: 1.2, wear: 3 } })).toBe("hours_left 1.200");
  expect(phrase({ horizon: [600, 60], values: [71, 70] })).toBe("71.00 in 10 min");
  expect(phrase({ something: "of a newer server" } as object)).toBe("predicted");
  expect(phrase({ score: 12.5, threshold: 20, anomaly: false })).toBe("score 12.50, threshold 20.00");
});

it("writes shares, times ahead and counts", () => {
  expect([0, 0.034, 0.996, 1, undefined].map(percent)).toEqual(["0 %", "3 %", "99 %", "100 %", "–"]);
  expect([0.5, 60, 120, 5400, 7200].map(ahead)).toEqual(["0.5 s", "60 s", "2 min", "90 min", "2 h"]);
  expect(tally({ count: 1000, more: true, last: null })).toBe("1,000 or more");
  expect([headline(null), headline({ label: "worn" }), headline({ horizon: [], values: [] })]).toEqual([null, null, null]);
});
