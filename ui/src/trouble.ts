/**
 * Readings without an answer: steps that failed and readings that were skipped, so that they can be counted.
 *
 * Keeps the newest `KEPT` by id, each once however often it is folded. A count that reached the bound is a
 * lower bound, and says so.
 */

import type { Sample } from "./wire";

const KEPT = 1_000;

export interface Incident {
  id: number;
  at: number;
  kind: "failed" | "skipped";
  reason: string;
}

export interface Tally {
  count: number;
  /** There were more than are kept. */
  more: boolean;
  last: Incident | null;
}

export class Troubles {
  /** By id, rising. */
  readonly #kept: Incident[] = [];
  #cut = false;

  fold({ id, output }: Sample, at: number): void {
    const { failed, skipped } = output;
    const reason = failed ?? skipped;
    if (reason === undefined) return;
    const kept = this.#kept;
    let place = kept.length;
    while (place > 0 && kept[place - 1]!.id > id) place -= 1;
    if (kept[place - 1]?.id === id) return;
    if (place === 0 && kept.length >= KEPT) {
      this.#cut = true;
      return;
    }
    kept.splice(place, 0, { id, at, kind: failed === undefined ? "skipped" : "failed", reason });
    if (kept.length > KEPT) this.#cut = kept.shift() !== undefined;
  }

  /** Those of one kind drawn from `from` to `to` (ms). */
  tally(kind: Incident["kind"], from: number, to: number): Tally {
    const found = this.#kept.filter((t) => t.kind === kind && t.at >= from && t.at <= to);
    const more = this.#cut && found.length > 0 && found[0] === this.#kept[0];
    return { count: found.length, more, last: found.at(-1) ?? null };
  }
}
