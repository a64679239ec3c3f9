/**
 * Every kind of task, changes of version and readings without an answer, against the stand-in: it knows all of them whatever
 * models the real server holds, and can be told to promote. Screenshots land in `test-results/`.
 */

import { fileURLToPath } from "node:url";
import { expect, type Page, test } from "@playwright/test";
import { freePort, scratchDir, Server } from "./server";

const STAND_IN = fileURLToPath(new URL("../dev/tidegate-mock.mjs", import.meta.url));

const option = (page: Page) => page.getByRole("listbox", { name: "Devices" }).getByRole("option");
const shot = (page: Page, name: string) => page.screenshot({ path: `test-results/${name}.png` });

/** Pixels with ink of each canvas. */
const inked = (page: Page) =>
  page.locator("canvas").evaluateAll((canvases) =>
    (canvases as HTMLCanvasElement[]).map((canvas) => {
      const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, i) => i % 4 === 3 && value > 0).length;
    }),
  );

async function drawn(page: Page, plots: number): Promise<void> {
  await expect.poll(async () => (await inked(page)).filter((n) => n > 200).length).toBe(plots);
}

async function promote(url: string, endpoint: string, version: string): Promise<void> {
  const answer = await fetch(`${url}api/v1/models/${endpoint}/${version}/promote`, { method: "POST", body: '{"who":"e2e"}' });
  expect(answer.ok).toBe(true);
}

/** In both schemes, wide and narrow; nothing may be wider than its screen. */
async function looks(page: Page, name: string): Promise<void> {
  await shot(page, `${name}-light`);
  await page.emulateMedia({ colorScheme: "dark" });
  await page.setViewportSize({ width: 390, height: 844 });
  await expect.poll(() => page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(390);
  await shot(page, `${name}-phone-dark`);
  await page.setViewportSize({ width: 1440, height: 900 });
  await shot(page, `${name}-dark`);
  await page.emulateMedia({ colorScheme: "light" });
}

test("every task shows its outputs, and a promotion shows in curves, head and notice", async ({ page }) => {
  const dir = scratchDir();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/`;
  const args = ["demo", "--devices", "3", "--rate", "20", "--endpoints", "all", "--trouble", "--calibration", "60", "--history", "60"];
  const server = new Server([...args, "--listen", `127.0.0.1:${port}`], dir.path, STAND_IN);
  const complaints: string[] = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  try {
    await server.ready(url);
    await page.goto(url);
    await expect(option(page)).toHaveCount(12);

    await page.getByRole("combobox", { name: "Endpoint" }).selectOption("rig-state");
    await expect(option(page)).toHaveCount(3);
    await expect(page.getByTestId("summary")).toContainText("3 predicting");
    await option(page).first().click();
    await expect(page.getByTestId("endpoint")).toHaveText("rig-state");
    await drawn(page, 10);
    await expect(page.getByTestId("label")).toContainText(/(healthy|valve closed|cavitation|imbalance)\s+\d+ %/);
    await expect(page.getByTestId("classes")).toContainText("imbalance");
    await expect(page.getByTestId("version")).toHaveText("forest/1.1.0");
    await expect(page.getByTestId("failed")).toContainText("not finite");
    await expect(page.getByTestId("skipped")).toContainText("late");
    await page.reload();
    await expect(option(page)).toHaveCount(3);

    await promote(url, "rig-state", "extra-trees/1.0.0");
    await expect(page.getByTestId("version")).toHaveText("extra-trees/1.0.0");
    await expect(page.getByTestId("change")).toContainText(/forest\/1\.1\.0 → extra-trees\/1\.0\.0, \d\d:\d\d:\d\d/);
    await looks(page, "task-classification");

    await page.getByRole("link", { name: "rig-forecast" }).click();
    await expect(page.getByTestId("endpoint")).toHaveText("rig-forecast");
    await drawn(page, 9);
    await expect(page.getByTestId("forecast")).toContainText(/in 2 min\s+[\d.]+\s+degC/);
    await expect(page.getByRole("combobox", { name: "beside" })).toHaveValue("4");
    await page.getByRole("combobox", { name: "beside" }).selectOption("Current");
    await expect(page.getByTestId("forecast")).toContainText(/in 2 min\s+[\d.]+\s+degC/);
    await looks(page, "task-forecast");
    await page.getByRole("combobox", { name: "beside" }).selectOption("nothing");
    await drawn(page, 9);

    await page.getByRole("link", { name: "rig-life" }).click();
    await expect(page.locator('[data-testid="output"][data-name="hours_left"]')).toHaveText(/^\s*\d[\d.]* h\s*$/);
    await expect(page.locator('[data-testid="output"][data-name="wear"]')).toHaveText(/^\s*\d[\d.]*\s*$/);
    await drawn(page, 10);
    await looks(page, "task-regression");

    await page.getByRole("link", { name: "pump-health" }).click();
    await expect(page.getByTestId("score")).toContainText("threshold");
    await drawn(page, 9);
    await promote(url, "pump-health", "mewma/1.1.0");
    await expect(page.getByTestId("version")).toHaveText("mewma/1.1.0");
    await promote(url, "pump-health", "mewma/1.0.0");
    await expect(page.getByTestId("change").first()).toContainText("mewma/1.1.0 → mewma/1.0.0");
    await expect(page.getByTestId("change")).toHaveCount(2);
    await looks(page, "task-anomaly");
    expect(complaints).toEqual([]);
  } finally {
    await server.kill();
    dir.remove();
  }
});

test("versions that differ across the fleet are told in the list", async ({ page }) => {
  const dir = scratchDir();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/`;
  // A device in six is still pinned to what it had.
  const args = ["demo", "--devices", "6", "--rate", "10", "--calibration", "20", "--pinned", "2"];
  const server = new Server([...args, "--listen", `127.0.0.1:${port}`], dir.path, STAND_IN);
  try {
    await server.ready(url);
    await page.goto(url);
    await expect(option(page)).toHaveCount(6);
    await expect(page.getByTestId("serving")).toHaveCount(0);
    await expect(page.getByTestId("row-version")).toHaveCount(0);
    await promote(url, "pump-health", "mewma/1.1.0");
    await expect(page.getByTestId("serving")).toHaveText(/pump-health:\s*4 on mewma\/1\.1\.0,\s*2 on mewma\/1\.0\.0/);
    await expect(page.getByTestId("row-version")).toHaveCount(6);
    await option(page).and(page.locator('[data-device="rig-1"]')).click();
    await expect(page.getByTestId("version")).toHaveText("mewma/1.0.0");
    await expect(page.getByText("production is mewma/1.1.0")).toBeVisible();
    await shot(page, "versions-differ");
  } finally {
    await server.kill();
    dir.remove();
  }
});
