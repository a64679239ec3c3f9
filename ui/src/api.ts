/**
 * The HTTP side: endpoints, devices and stored samples. Same origin, read only.
 *
 * Every call takes a signal and throws `ApiError` with a sentence a person can read.
 */

import type { DeviceInfo, Endpoint, Page, Sample } from "./wire";

export class ApiError extends Error {}

/** Pages of devices read at most: a bound for the page, not for the server. */
const MAX_DEVICE_PAGES = 20;

async function get<T>(path: string, query: Record<string, string | number | null>, signal?: AbortSignal): Promise<T> {
  const set = Object.entries(query).filter((entry): entry is [string, string | number] => entry[1] !== null);
  const search = new URLSearchParams(set.map(([name, value]) => [name, String(value)]));
  const url = set.length > 0 ? `${path}?${search}` : path;
  const response = await fetch(url, { headers: { accept: "application/json" }, ...(signal ? { signal } : {}) });
  if (!response.ok) throw new ApiError(`${path} answered ${response.status}`);
  return (await response.json()) as T;
}

export async function fetchEndpoints(signal?: AbortSignal): Promise<Endpoint[]> {
  return (await get<{ endpoints: Endpoint[] }>("/api/v1/endpoints", {}, signal)).endpoints;
}

export async function fetchDevices(signal?: AbortSignal): Promise<DeviceInfo[]> {
  const all: DeviceInfo[] = [];
  let cursor: string | null = null;
  for (let page = 0; page < MAX_DEVICE_PAGES; page++) {
    const got: { devices: DeviceInfo[]; next_cursor: string | null } = await get("/api/v1/devices", { cursor }, signal);
    all.push(...got.devices);
    cursor = got.next_cursor;
    if (cursor === null) break;
  }
  return all;
}

export interface SampleQuery {
  endpoint: string;
  device: string;
  limit: number;
  cursor: string | null;
}

/** Newest first. */
export async function fetchSamples(query: SampleQuery, signal?: AbortSignal): Promise<Page<Sample>> {
  const { endpoint, device, limit, cursor } = query;
  const got = await get<{ samples: Sample[]; next_cursor: string | null }>(
    "/api/v1/samples",
    { endpoint, device, limit, order: "desc", cursor },
    signal,
  );
  return { items: got.samples, next_cursor: got.next_cursor };
}
