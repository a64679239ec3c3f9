import { expect, it } from "vitest";
import { CAP_MS, waitMs } from "./backoff";

it("takes between half and all of a wait that doubles", () => {
  expect([waitMs(0, 0), waitMs(0, 1), waitMs(3, 0), waitMs(3, 1)]).toEqual([250, 500, 2000, 4000]);
});

it("never waits longer than its cap, however often it failed", () => {
  expect(waitMs(1000, 1)).toBe(CAP_MS);
});

it("respects what the server asks, within reason", () => {
  expect(waitMs(0, 0, 3000)).toBe(3000);
  expect(waitMs(0, 0, 10 * 60_000)).toBe(60_000);
});
