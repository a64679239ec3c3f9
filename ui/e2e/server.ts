/** A tidegate started for one test, and a device that sends to it. Both end with the test. */

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket from "ws";

const BIN = process.env.TIDEGATE_BIN!;
const START_MS = 60_000;

export function scratchDir(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), "tidegate-e2e-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

export class Server {
  readonly #child: ChildProcess;
  #said = "";

  /** `cwd` is a scratch directory, so that a default data directory lands there. */
  constructor(args: string[], cwd: string, bin = BIN) {
    this.#child = spawn(bin, args, { cwd, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) stream.on("data", (text) => this.#hear(String(text)));
  }

  /** The end of what it printed is enough to say why it did not start. */
  #hear(text: string): void {
    this.#said = (this.#said + text).slice(-20_000);
  }

  /** The address it prints. */
  async url(): Promise<string> {
    return this.#until(async () => this.#said.match(/http:\/\/127\.0\.0\.1:\d+\//)?.[0] ?? null);
  }

  async ready(url: string): Promise<void> {
    await this.#until(async () => ((await fetch(`${url}health/ready`).catch(() => null))?.ok ? true : null));
  }

  async #until<T>(look: () => Promise<T | null>): Promise<T> {
    const deadline = Date.now() + START_MS;
    while (Date.now() < deadline && this.#child.exitCode === null) {
      const found = await look();
      if (found !== null) return found;
      await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error(`the server did not start (exit code ${this.#child.exitCode}); it said:\n${this.#said}`);
  }

  /** Without a farewell: as a crash would end it. */
  async kill(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await gone;
  }
}

const MEANS = [0.027, 0.04, 1.33, 0.055, 79.3, 26.0, 233.1, 32.0];
const SEND_MS = 50;
const RETRY_MS = 300;

/** A healthy rig: 20 readings a second, back by itself after a cut, from where the server says. */
export class Device {
  readonly #url: string;
  #socket: WebSocket | null = null;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(httpUrl: string, id: string) {
    this.#url = `${httpUrl.replace("http", "ws")}v1/stream/pump-health?device=${id}`;
    this.#connect();
  }

  #connect(): void {
    const socket = (this.#socket = new WebSocket(this.#url, "tidegate.v1.json"));
    socket.on("error", () => {});
    socket.on("message", (text) => {
      const message = JSON.parse(String(text)) as { type: string; resume_from?: number };
      if (message.type === "welcome") this.#send(message.resume_from ?? 0);
    });
    socket.on("close", () => {
      clearTimeout(this.#timer);
      if (!this.#ended) this.#timer = setTimeout(() => this.#connect(), RETRY_MS);
    });
  }

  #send(seq: number): void {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const values = MEANS.map((mean) => mean * (1 + 0.01 * (Math.random() - 0.5)));
    this.#socket.send(JSON.stringify({ seq, values }));
    this.#timer = setTimeout(() => this.#send(seq + 1), SEND_MS);
  }

  stop(): void {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#socket?.terminate();
  }
}
