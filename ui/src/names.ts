/**
 * Names in the order they were first seen, each with a number: what colours and curves hang on.
 *
 * Owns a bounded list and nothing else. A name beyond the limit has no number (-1) and changes nothing, so that
 * a model that invents names cannot grow the page.
 */

export class Names {
  readonly limit: number;
  readonly list: string[] = [];
  readonly #numbers = new Map<string, number>();

  constructor(limit: number) {
    this.limit = limit;
  }

  /** The number of a name, given now if there is room. */
  number(name: string): number {
    const known = this.#numbers.get(name);
    if (known !== undefined) return known;
    if (this.list.length >= this.limit) return -1;
    this.#numbers.set(name, this.list.length);
    return this.list.push(name) - 1;
  }

  /** The number of a name that was seen, or -1. */
  find(name: string): number {
    return this.#numbers.get(name) ?? -1;
  }
}

/** Labels are bits of one 32-bit word; the last bit stands for all that have no number. */
export const MAX_LABELS = 31;
export const OTHER_LABEL = 31;
