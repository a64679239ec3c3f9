/** The page's address: `#/pump-health/rig-1?w=10m&e=pump-health` names the chosen device, its window and the endpoint listed. Pure. */

import { WINDOWS } from "./series";

export interface Route {
  endpoint: string | null;
  device: string | null;
  window: string;
  /** The endpoint whose devices are listed; null for all. */
  only: string | null;
}

const FIRST = WINDOWS[0]!.id;

function decode(part: string | undefined): string | null {
  try {
    return part ? decodeURIComponent(part) : null;
  } catch {
    return null;
  }
}

export function readRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [endpoint, device] = path.split("/").map(decode);
  const asked = new URLSearchParams(query);
  const window = WINDOWS.find((w) => w.id === asked.get("w"))?.id ?? FIRST;
  const only = asked.get("e") || null;
  return endpoint && device ? { endpoint, device, window, only } : { endpoint: null, device: null, window, only };
}

export function writeRoute({ endpoint, device, window, only }: Route): string {
  const asked = new URLSearchParams({ ...(window === FIRST ? {} : { w: window }), ...(only === null ? {} : { e: only }) });
  const query = asked.size > 0 ? `?${asked}` : "";
  // Colons are common in device ids and legal in a fragment.
  const part = (text: string) => encodeURIComponent(text).replaceAll("%3A", ":");
  return endpoint && device ? `#/${part(endpoint)}/${part(device)}${query}` : `#/${query}`;
}
