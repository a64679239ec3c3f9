/**
 * The devices of all endpoints, kept current: the API gives the list, the socket what changes.
 *
 * Events go into a plain map; a few times a second one pass publishes what is shown. The cost of drawing
 * therefore depends on neither the number of devices nor their rate.
 */

import { fetchDevices, fetchEndpoints } from "./api";
import { countRows, type Counts, keyOf, type Row, rowOfInfo, rowOfSample, type SortBy } from "./fleet";
import { filterRows, sortRows } from "./fleet";
import type { LiveClient } from "./live";
import type { DeviceEvent, Endpoint, Sample } from "./wire";

const PUBLISH_MS = 500;
/** Rows kept at most; further devices are counted as not shown. */
const MAX_ROWS = 5_000;
/** While the pointer moves over the list, rows keep their places. */
const HOLD_MS = 1_200;
const RETRY_MS = 3_000;

export interface Listing {
  rows: Row[];
  total: number;
  counts: Counts;
  now: number;
}

export class Fleet {
  endpoints = $state.raw<Endpoint[]>([]);
  listing = $state.raw<Listing>({ rows: [], total: 0, counts: countRows([], 0), now: Date.now() });
  /** False until the API has answered once. */
  loaded = $state(false);
  error = $state("");
  overflow = $state(false);
  filter = $state("");
  sortBy = $state<SortBy>("state");
  #rows = new Map<string, Row>();
  #heldUntil = 0;
  #retry: ReturnType<typeof setTimeout> | undefined;

  constructor(client: LiveClient) {
    client.subscribe({
      topic: "predictions/*/*",
      policy: "latest",
      maxHz: 2,
      onEvent: (event) => this.#sample(event.data as Sample),
      onReady: () => void this.load(),
      onLost: () => void this.load(),
    });
    client.subscribe({
      topic: "devices/*",
      // Not `latest`: the newest event of a device may be a gap, and would hide that it came or went.
      policy: "drop_oldest",
      onEvent: (event) => this.#presence(event.data as DeviceEvent),
      onDropped: () => void this.load(),
    });
    setInterval(() => this.publish(), PUBLISH_MS);
    void this.load();
  }

  row(endpoint: string, device: string): Row | undefined {
    return this.#rows.get(keyOf(endpoint, device));
  }

  endpoint(name: string): Endpoint | undefined {
    return this.endpoints.find((endpoint) => endpoint.name === name);
  }

  async load(): Promise<void> {
    clearTimeout(this.#retry);
    try {
      const [endpoints, devices] = await Promise.all([fetchEndpoints(), fetchDevices()]);
      this.endpoints = endpoints;
      for (const info of devices) this.#put(rowOfInfo(info, this.#rows.get(keyOf(info.endpoint, info.device))));
      this.loaded = true;
      this.error = "";
      this.publish();
    } catch (error) {
      this.error = error instanceof Error ? error.message : String(error);
      this.#retry = setTimeout(() => void this.load(), RETRY_MS);
    }
  }

  hold(): void {
    this.#heldUntil = Date.now() + HOLD_MS;
  }

  /** `asked` skips the hold: the person changed filter or order. */
  publish(asked = false): void {
    const now = Date.now();
    if (!asked && document.hidden) return;
    const all = [...this.#rows.values()];
    const held = !asked && now < this.#heldUntil && this.listing.rows.length > 0;
    const rows = held ? this.#inPlace() : sortRows(filterRows(all, this.filter, now), this.sortBy, now);
    this.listing = { rows, total: all.length, counts: countRows(all, now), now };
  }

  #inPlace(): Row[] {
    return this.listing.rows.map((row) => this.#rows.get(row.key) ?? row);
  }

  #sample(sample: Sample): void {
    const before = this.#rows.get(keyOf(sample.endpoint, sample.device));
    this.#put(rowOfSample(sample, Date.now(), before));
  }

  #presence({ endpoint, device, state, at }: DeviceEvent): void {
    if (state === "gap") return;
    const key = keyOf(endpoint, device);
    const fresh: Row = { key, endpoint, device, online: true, changedAt: at, lastSeen: at, lastSeq: 0, output: null, anomalyAt: 0 };
    this.#put({ ...(this.#rows.get(key) ?? fresh), online: state === "online", changedAt: at });
  }

  #put(row: Row): void {
    this.overflow = this.#rows.size >= MAX_ROWS && !this.#rows.has(row.key);
    if (!this.overflow) this.#rows.set(row.key, row);
  }
}
