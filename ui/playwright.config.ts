import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

const bin = process.env.TIDEGATE_BIN;
if (!bin || !existsSync(bin)) {
  const why = bin ? `TIDEGATE_BIN names ${bin}, which does not exist` : "TIDEGATE_BIN is not set";
  throw new Error(`${why}: it must be the path of a built tidegate, e.g.\n  TIDEGATE_BIN=$PWD/../target/debug/tidegate npm run e2e`);
}

// The system's own browser; nothing is downloaded.
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const quiet = ["--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export default defineConfig({
  testDir: "e2e",
  outputDir: "test-results/run",
  workers: 1,
  timeout: 300_000,
  expect: { timeout: 20_000 },
  reporter: "list",
  use: {
    viewport: { width: 1440, height: 900 },
    launchOptions: { executablePath, args: ["--no-sandbox", "--disable-gpu", ...quiet] },
  },
});
