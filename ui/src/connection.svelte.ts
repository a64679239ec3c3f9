/**
 * The one live connection of the page, as reactive state: how it is, and the server's rates.
 */

import { LiveClient, type LiveStatus, type SocketLike } from "./live";
import type { SystemRates } from "./wire";
import { LIVE_PATH, LIVE_SUBPROTOCOL } from "./wire";

function openSocket(): SocketLike {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(`${scheme}//${location.host}${LIVE_PATH}`, LIVE_SUBPROTOCOL) as SocketLike;
}

export class Connection {
  status = $state.raw<LiveStatus>({ state: "connecting" });
  rates = $state.raw<SystemRates | null>(null);
  /** What the browser says of the network; loopback works without one, so it is only a hint. */
  online = $state(navigator.onLine);
  /** When the connection was last lost (ms); null while it never was. */
  lostAt = $state<number | null>(null);
  readonly client: LiveClient;

  constructor() {
    this.client = new LiveClient({ open: openSocket, onStatus: (status) => this.#changed(status) });
    this.client.subscribe({
      topic: "system",
      policy: "latest",
      recover: false,
      onEvent: (event) => (this.rates = event.data as SystemRates),
    });
    addEventListener("online", () => this.#network(true));
    addEventListener("offline", () => this.#network(false));
    this.client.start();
  }

  #changed(status: LiveStatus): void {
    if (this.status.state === "live" && status.state !== "live") this.lostAt = Date.now();
    this.status = status;
    if (status.state !== "live") this.rates = null;
  }

  #network(online: boolean): void {
    this.online = online;
    if (online && this.status.state === "waiting") this.client.retry();
  }
}
