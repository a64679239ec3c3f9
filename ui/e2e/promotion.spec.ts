/** Another version is promoted and taken back while a demo runs: the page shows it, and no reading is without a prediction. */

import { expect, test } from "@playwright/test";
import { scratchDir, Server } from "./server";

interface Stored {
  seq: number;
  model: string;
  output: Record<string, unknown>;
}

async function post(url: string, path: string): Promise<void> {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(`${url}api/v1/models/pump-health/${path}`, { method: "POST", headers, body: '{"who":"e2e","why":"a test"}' });
  expect(answer.ok, `${path} answered ${answer.status}`).toBe(true);
}

test("a promotion during a demo is shown, and every reading keeps its prediction", async ({ page }) => {
  const dir = scratchDir();
  const server = new Server(["demo", "--devices", "3", "--rate", "50", "--listen", "127.0.0.1:0"], dir.path);
  try {
    const url = await server.url();
    await page.goto(url);
    await expect(page.getByTestId("score")).toContainText("threshold", { timeout: 60_000 });
    await expect(page.getByTestId("version")).toHaveText("mewma/1.0.0");

    await post(url, "autoencoder/1.0.0/promote");
    await expect(page.getByTestId("version")).toHaveText("autoencoder/1.0.0");
    await expect(page.getByTestId("change")).toContainText(/mewma\/1\.0\.0 → autoencoder\/1\.0\.0, \d\d:\d\d:\d\d/);
    await expect(page.getByTestId("score")).toContainText("threshold");
    await page.screenshot({ path: "test-results/promotion.png" });
    await post(url, "rollback");
    await expect(page.getByTestId("version")).toHaveText("mewma/1.0.0");
    await expect(page.getByTestId("change")).toHaveCount(2);
    await page.screenshot({ path: "test-results/rollback.png" });

    const device = await page.getByRole("heading", { level: 1 }).textContent();
    const answer = await fetch(`${url}api/v1/samples?endpoint=pump-health&device=${device}&order=desc&limit=1000`);
    const { samples } = (await answer.json()) as { samples: Stored[] };
    expect(new Set(samples.map(({ model }) => model))).toEqual(new Set(["mewma", "autoencoder"]));
    const newest = samples[0]!.seq;
    expect(samples.map(({ seq }) => seq)).toEqual(samples.map((_, i) => newest - i));
    // Neither a failure nor a second calibration once the first version had answered.
    const first = samples.findLastIndex(({ output }) => "score" in output);
    expect(samples.slice(0, first).filter(({ output }) => !("score" in output))).toEqual([]);
  } finally {
    await server.kill();
    dir.remove();
  }
});
