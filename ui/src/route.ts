/** The page's address: `#/pump-health/rig-1?w=10m` names the chosen device and window. Pure. */

import { WINDOWS } from "./series";

export interface Route {
  endpoint: string | null;
  device: string | null;
  window: string;
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
  const asked = new URLSearchParams(query).get("w");
  const window = WINDOWS.find((w) => w.id === asked)?.id ?? FIRST;
  return endpoint && device ? { endpoint, device, window } : { endpoint: null, device: null, window };
}

export function writeRoute({ endpoint, device, window }: Route): string {
  const query = window === FIRST ? "" : `?w=${window}`;
  // Colons are common in device ids and legal in a fragment.
  const part = (text: string) => encodeURIComponent(text).replaceAll("%3A", ":");
  return endpoint && device ? `#/${part(endpoint)}/${part(device)}${query}` : `#/${query}`;
}
