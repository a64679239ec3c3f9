/**
 * The devices of all endpoints, kept current: the API gives the list, the socket what changes.
 *
 * Events go into a plain map; a few times a second one pass publishes what is shown. The cost of drawing
 * therefore depends on neither the number of devices nor their rate.
 */

import { fetchDevices, fetchEndpoints } from "./api";
import { countRows, type Counts, keyOf, type Row, rowOfInfo, rowOfSample, type Serving, type SortBy } from "./fleet";
import { filterRows, mixedServing, sortRows } from "./fleet";
import type { LiveClient } from "./live";
import { MAX_LABELS, Names } from "./names";
import { nameLabels } from "./series";
import type { DeviceEvent, Endpoint, Sample } from "./wire";

const PUBLISH_MS = 500;
/** Rows kept at most; further devices are counted as not shown. */
const MAX_ROWS = 5_000;
/** While the pointer moves over the list, rows keep their places. */
const HOLD_MS = 1_200;
const RETRY_MS = 3_000;
/** After a change of version or a sample of a new endpoint the endpoints are asked for once, this much later. */
const REFRESH_MS = 1_000;

/** All but `known` and `alarms` are of the chosen endpoint, or of all. */
export interface Listing {
  rows: Row[];
  total: number;
  counts: Counts;
  serving: Serving[];
  /** Devices and anomalies of all endpoints. */
  known: number;
  alarms: number;
  now: number;
}

const EMPTY: Omit<Listing, "now"> = { rows: [], total: 0, counts: countRows([], 0), serving: [], known: 0, alarms: 0 };

export class Fleet {
  endpoints = $state.raw<Endpoint[]>([]);
  listing = $state.raw<Listing>({ ...EMPTY, now: Date.now() });
  /** False until the API has answered once. */
  loaded = $state(false);
  error = $state("");
  overflow = $state(false);
  filter = $state("");
  sortBy = $state<SortBy>("state");
  /** Only this endpoint is listed; null for all. */
  only = $state<string | null>(null);
  readonly #labels = new Map<string, Names>();
  #refresh: ReturnType<typeof setTimeout> | undefined;
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

  /** The labels of an endpoint, shared by all that colours them. */
  labels(endpoint: string): Names {
    const labels = this.#labels.get(endpoint) ?? new Names(MAX_LABELS);
    this.#labels.set(endpoint, labels);
    return labels;
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
    const scope = this.only === null ? all : all.filter((row) => row.endpoint === this.only);
    const held = !asked && now < this.#heldUntil && this.listing.rows.length > 0;
    const rows = held ? this.#inPlace() : sortRows(filterRows(scope, this.filter, now), this.sortBy, now);
    const [counts, serving] = [countRows(scope, now), mixedServing(scope)];
    const alarms = countRows(all, now).anomaly;
    this.listing = { rows, total: scope.length, counts, serving, known: all.length, alarms, now };
  }

  #inPlace(): Row[] {
    return this.listing.rows.map((row) => this.#rows.get(row.key) ?? row);
  }

  #sample(sample: Sample): void {
    const before = this.#rows.get(keyOf(sample.endpoint, sample.device));
    const row = rowOfSample(sample, Date.now(), before);
    this.#put(row);
    const changed = before?.served != null && before.served !== row.served;
    if (changed || this.endpoint(sample.endpoint) === undefined) this.#askEndpoints();
  }

  #askEndpoints(): void {
    this.#refresh ??= setTimeout(() => {
      this.#refresh = undefined;
      // Only what is said beside the readings hangs on it: the next change asks again.
      fetchEndpoints().then((endpoints) => (this.endpoints = endpoints), () => {});
    }, REFRESH_MS);
  }

  #presence({ endpoint, device, state, at }: DeviceEvent): void {
    if (state === "gap") return;
    const key = keyOf(endpoint, device);
    const fresh: Row = { key, endpoint, device, online: true, changedAt: at, lastSeen: at, lastSeq: 0, output: null, served: null, anomalyAt: 0 };
    this.#put({ ...(this.#rows.get(key) ?? fresh), online: state === "online", changedAt: at });
  }

  #put(row: Row): void {
    if (row.output !== null) nameLabels(row.output, this.labels(row.endpoint));
    this.overflow = this.#rows.size >= MAX_ROWS && !this.#rows.has(row.key);
    if (!this.overflow) this.#rows.set(row.key, row);
  }
}
