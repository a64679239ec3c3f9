/**
 * One watched device: history from the API, then live; folded into a bounded `Series`.
 *
 * Subscribes first and fetches after, so nothing falls between; the fold forgives the overlap. After every cut
 * the history is fetched again. `stop` ends both.
 */

import { fetchSamples } from "./api";
import type { LiveClient } from "./live";
import type { Names } from "./names";
import { drawnAt, Series, type Window } from "./series";
import type { Sample } from "./wire";

const PAGE = 1000;
/** History is read back at most this many pages: 20,000 readings. */
const MAX_PAGES = 20;

export class Watch {
  readonly endpoint: string;
  readonly device: string;
  readonly series: Series;
  filling = $state(false);
  error = $state("");
  /** Live readings the server left out because this page was too slow. */
  dropped = $state(0);
  /** History older than this was not loaded (ms); null when the window is covered. */
  shortOf = $state<number | null>(null);
  #windowMs: number;
  #cursor: string | null = null;
  #oldest = Infinity;
  #pages = 0;
  #ended = false;
  #abort: AbortController | null = null;
  readonly #unsubscribe: () => void;

  constructor(client: LiveClient, endpoint: string, device: string, features: number, labels: Names, window: Window) {
    this.endpoint = endpoint;
    this.device = device;
    this.series = new Series(features, labels);
    this.#windowMs = window.ms;
    this.#unsubscribe = client.subscribe({
      topic: `predictions/${endpoint}/${device}`,
      policy: "drop_oldest",
      onEvent: (event) => this.series.fold(event.data as Sample),
      onReady: () => this.#onReady(),
      onLost: () => this.refill(),
      onDropped: (count) => this.#onDropped(count),
    });
    this.refill();
  }

  stop(): void {
    this.#unsubscribe();
    this.#abort?.abort();
  }

  /** Reads history anew, newest first, until it covers the window. */
  refill(): void {
    this.#cursor = null;
    this.#oldest = Infinity;
    this.#pages = 0;
    this.#ended = false;
    void this.#fill();
  }

  /** A longer window continues where the last fill ended. */
  cover(window: Window): void {
    this.#windowMs = window.ms;
    if (!this.filling) void this.#fill();
  }

  #onReady(): void {
    // The first answer may come after the first page was read: readings in between are in neither. After a cut
    // the position may be ahead of what this subscription brought: another one listens to the same topic.
    this.refill();
  }

  #onDropped(count: number): void {
    this.dropped += count;
    if (!this.filling) this.refill();
  }

  async #fill(): Promise<void> {
    this.#abort?.abort();
    const abort = (this.#abort = new AbortController());
    this.filling = true;
    this.error = "";
    try {
      while (!this.#covered() && this.#pages < MAX_PAGES) await this.#page(abort.signal);
      this.shortOf = this.#covered() ? null : this.#oldest;
    } catch (error) {
      if (abort.signal.aborted) return;
      this.error = error instanceof Error ? error.message : String(error);
    }
    if (!abort.signal.aborted) this.filling = false;
  }

  #covered(): boolean {
    return this.#ended || this.#oldest <= this.series.newestAt - this.#windowMs;
  }

  async #page(signal: AbortSignal): Promise<void> {
    const { endpoint, device } = this;
    const page = await fetchSamples({ endpoint, device, limit: PAGE, cursor: this.#cursor }, signal);
    signal.throwIfAborted();
    for (const sample of page.items) {
      this.series.fold(sample);
      this.#oldest = Math.min(this.#oldest, drawnAt(sample));
    }
    this.#pages += 1;
    this.#cursor = page.next_cursor;
    this.#ended = page.next_cursor === null || page.items.length === 0;
  }
}
