/**
 * How long to wait before the next try to connect. Pure: chance is an argument.
 *
 * The wait doubles from `BASE_MS` to `CAP_MS`; between half and all of it is taken, so that many
 * pages cut at the same moment do not come back at the same moment.
 */

export const BASE_MS = 500;
export const CAP_MS = 15_000;
/** A server may ask for more patience than that, up to this. */
export const ASKED_CAP_MS = 60_000;

/** `attempt` counts failures in a row from 0; `chance` is in [0, 1); `askedMs` is the server's `retry_after_ms`. */
export function waitMs(attempt: number, chance: number, askedMs = 0): number {
  const full = Math.min(CAP_MS, BASE_MS * 2 ** Math.min(attempt, 16));
  const jittered = full * (0.5 + chance / 2);
  return Math.round(Math.max(jittered, Math.min(askedMs, ASKED_CAP_MS)));
}
