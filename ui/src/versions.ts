/**
 * Which version answered when, from samples in any order: runs of ids that one version answered.
 *
 * A change is where a run begins that is not the first known one. Idempotent, so history may overlap what the
 * socket brought; a change found between two samples moves to its place as the samples between them arrive.
 * Bounded: of a stream that changes without end the newest runs stay.
 */

import type { Sample } from "./wire";

interface Run {
  version: string;
  /** No run before it reaches here; after a split nobody has seen this id yet. */
  firstId: number;
  firstAt: number;
  /** Of the sample that `firstAt` is from. */
  seenId: number;
  lastId: number;
}

export interface Change {
  /** Time of the first reading that the new version answered, Unix ms. */
  at: number;
  before: string;
  version: string;
}

const MAX_RUNS = 64;

/** `model/version`: who answered. */
export const versionOf = (sample: { model: string; version: string }) => `${sample.model}/${sample.version}`;

/** A late reading lies elsewhere in time, an import is another stream: neither tells who serves now. */
export function tellsVersion({ output, flags }: Sample): boolean {
  return output.skipped === undefined && !flags?.includes("import");
}

export class Versions {
  readonly #runs: Run[] = [];

  fold(id: number, at: number, version: string): void {
    const runs = this.#runs;
    const after = runs.findIndex((run) => run.firstId > id);
    const i = (after < 0 ? runs.length : after) - 1;
    const [here, next] = [runs[i], runs[i + 1]];
    if (here !== undefined && id <= here.lastId) {
      if (here.version !== version) this.#split(i, id, at, version);
      else if (id < here.seenId) [here.seenId, here.firstAt] = [id, at];
    } else if (here?.version === version) here.lastId = id;
    else if (next?.version === version) [next.firstId, next.seenId, next.firstAt] = [id, id, at];
    else runs.splice(i + 1, 0, { version, firstId: id, seenId: id, firstAt: at, lastId: id });
    if (runs.length > MAX_RUNS) runs.shift();
  }

  /** Changes from `from` to `to` (ms), oldest first. */
  between(from: number, to: number): Change[] {
    const changes = this.#runs.map(({ firstAt, version }, i) => ({ at: firstAt, before: this.#runs[i - 1]?.version ?? "", version }));
    return changes.slice(1).filter(({ at }) => at >= from && at <= to);
  }

  #split(i: number, id: number, at: number, version: string): void {
    const whole = this.#runs[i]!;
    const parts: Run[] = [
      { ...whole, lastId: id - 1 },
      { version, firstId: id, seenId: id, firstAt: at, lastId: id },
      { ...whole, firstId: id + 1, seenId: Infinity, firstAt: at },
    ];
    this.#runs.splice(i, 1, ...parts.filter((run) => run.firstId <= run.lastId));
    this.#join();
  }

  #join(): void {
    const runs = this.#runs;
    for (let i = runs.length - 1; i > 0; i--) {
      if (runs[i]!.version !== runs[i - 1]!.version) continue;
      runs[i - 1]!.lastId = runs[i]!.lastId;
      runs.splice(i, 1);
    }
  }
}
