/**
 * The live page in a real browser against the real server. Screenshots land in `test-results/`.
 */

import { expect, type Page, test } from "@playwright/test";
import { Device, freePort, scratchDir, Server } from "./server";

const option = (page: Page) => page.getByRole("listbox", { name: "Devices" }).getByRole("option");
const shot = (page: Page, name: string) => page.screenshot({ path: `test-results/${name}.png` });
const lastSeq = async (page: Page) => Number((await page.getByTestId("seq").textContent())?.split(":")[1]);

/** For each canvas, how many pixels carry ink, and how many the red of an anomaly. */
async function ink(page: Page): Promise<{ inked: number; red: number }[]> {
  return page.locator("canvas").evaluateAll((canvases) =>
    (canvases as HTMLCanvasElement[]).map((canvas) => {
      const { data } = canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height);
      const found = { inked: 0, red: 0 };
      for (let i = 0; i < data.length; i += 4) {
        if (data[i + 3]! === 0) continue;
        found.inked += 1;
        if (data[i]! > data[i + 2]! + 60) found.red += 1;
      }
      return found;
    }),
  );
}

/** What a page must never do on a healthy server: throw, or break its own content policy. */
function complaintsOf(page: Page): string[] {
  const complaints: string[] = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  return complaints;
}

async function drawn(page: Page): Promise<void> {
  await expect.poll(async () => (await ink(page)).length).toBe(9);
  await expect.poll(async () => Math.min(...(await ink(page)).map((c) => c.inked))).toBeGreaterThan(200);
}

test("a demo fleet shows its devices, curves, scores and anomalies", async ({ page }) => {
  const dir = scratchDir();
  const server = new Server(["demo", "--devices", "4", "--rate", "50", "--listen", "127.0.0.1:0"], dir.path);
  try {
    const complaints = complaintsOf(page);
    await page.goto(await server.url());
    await expect(option(page)).toHaveCount(4);
    await expect(page.getByTestId("connection")).toHaveAttribute("data-state", "live");
    await expect(page.getByTestId("rates")).toContainText("readings/s");

    const second = option(page).nth(1);
    const name = await second.getAttribute("data-device");
    await second.click();
    await expect(page.getByRole("heading", { level: 1 })).toHaveText(name!);
    expect(decodeURIComponent(new URL(page.url()).hash)).toContain(name!);
    await drawn(page);
    const value = page.getByTestId("value").first();
    const before = await value.textContent();
    await expect.poll(() => value.textContent()).not.toBe(before);
    await shot(page, "demo-first");

    await page.getByRole("listbox", { name: "Devices" }).focus();
    await page.keyboard.press("Home");
    await page.keyboard.press("Enter");
    const top = await option(page).first().getAttribute("data-device");
    await expect(page.getByRole("heading", { level: 1 })).toHaveText(top!);
    await page.reload();
    await expect(page.getByRole("heading", { level: 1 })).toHaveText(top!);
    await expect(page.getByTestId("score")).toContainText("threshold", { timeout: 60_000 });

    await expect(page.locator('[role="option"][data-state="anomaly"]').first()).toBeVisible({ timeout: 150_000 });
    await page.mouse.move(900, 60);
    await expect(option(page).first()).toHaveAttribute("data-state", "anomaly", { timeout: 150_000 });
    await option(page).first().click();
    await drawn(page);
    // A sensor's plot has no red but the shading.
    await expect.poll(async () => (await ink(page))[1]!.red, { timeout: 30_000 }).toBeGreaterThan(20);
    await shot(page, "demo-anomaly-light");

    await page.emulateMedia({ colorScheme: "dark" });
    await drawn(page);
    await shot(page, "demo-anomaly-dark");
    await page.setViewportSize({ width: 390, height: 844 });
    await shot(page, "demo-phone-device");
    await page.getByRole("button", { name: "Devices" }).click();
    await expect(option(page).first()).toBeVisible();
    await shot(page, "demo-phone-list");
    await page.setViewportSize({ width: 1440, height: 900 });
    await page.emulateMedia({ colorScheme: "light" });

    await page.getByRole("group", { name: "Window" }).getByText("10 min").click();
    await page.getByRole("button", { name: "Pause" }).click();
    // What was on its way to the screen when the button was pressed may still be drawn; from then on nothing moves but the count.
    const behind = page.getByText(/readings behind/);
    const moves = async () => {
      const count = await behind.textContent();
      await expect(behind).not.toHaveText(count!);
    };
    await moves();
    await moves();
    const held = await page.getByTestId("seq").textContent();
    await moves();
    expect(await page.getByTestId("seq").textContent()).toBe(held);
    await page.getByRole("button", { name: "Resume" }).click();
    await expect(page.getByTestId("seq")).not.toHaveText(held!);
    expect(complaints).toEqual([]);
  } finally {
    await server.kill();
    dir.remove();
  }
});

test("a promotion in the middle of a demo shows on the page, and no reading is without its prediction", async ({ page, request }) => {
  const dir = scratchDir();
  const server = new Server(["demo", "--devices", "4", "--rate", "50", "--listen", "127.0.0.1:0"], dir.path);
  try {
    const complaints = complaintsOf(page);
    const url = await server.url();
    await page.goto(url);
    await option(page).first().click();
    const version = page.getByTestId("version");
    await expect(version).toHaveText("mewma/1.0.0");
    // Behind the calibration.
    await expect(page.getByTestId("score")).toContainText("threshold", { timeout: 60_000 });
    const promote = `${url}api/v1/models/pump-health/autoencoder/1.0.0/promote`;
    const told = await request.post(promote, { data: { who: "e2e", why: "to see it change" } });
    expect(told.ok()).toBe(true);
    await expect(version).toHaveText("autoencoder/1.0.0");
    await expect(page.getByTestId("change")).toHaveText(/mewma\/1\.0\.0 → autoencoder\/1\.0\.0, \d\d:\d\d:\d\d/);
    await expect(page.getByTestId("score")).toContainText("threshold");
    const turned = await lastSeq(page);
    await expect.poll(() => lastSeq(page), { timeout: 20_000 }).toBeGreaterThan(turned + 150);
    await expect(page.getByTestId("change")).toHaveCount(1);
    await shot(page, "demo-promoted");
    const stored = await request.get(`${url}api/v1/samples?endpoint=pump-health&order=desc&limit=1000`);
    const { samples } = (await stored.json()) as { samples: { device: string; seq: number; model: string; output: object }[] };
    for (const device of new Set(samples.map((one) => one.device))) {
      const seqs = samples.filter((one) => one.device === device).map((one) => one.seq);
      expect(seqs).toEqual(seqs.map((_, i) => seqs[0]! - i));
    }
    // The new version calibrates nobody a second time.
    const after = samples.filter((one) => one.model === "autoencoder");
    expect(after.length).toBeGreaterThan(0);
    expect(after.every((one) => "score" in one.output)).toBe(true);

    const back = await request.post(`${url}api/v1/models/pump-health/rollback`, { data: { who: "e2e", why: "to see it go back" } });
    expect(back.ok()).toBe(true);
    await expect(version).toHaveText("mewma/1.0.0");
    await expect(page.getByTestId("change")).toHaveCount(2);
    await shot(page, "demo-rolled-back");
    expect(complaints).toEqual([]);
  } finally {
    await server.kill();
    dir.remove();
  }
});

test("an empty page says how to send, and comes back by itself after the server was killed", async ({ page }) => {
  const dir = scratchDir();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/`;
  const args = ["serve", "--listen", `127.0.0.1:${port}`, "--data-dir", dir.path];
  let server = new Server(args, dir.path);
  let device: Device | null = null;
  try {
    await server.ready(url);
    await page.goto(url);
    await expect(page.getByTestId("empty")).toContainText("tidegate demo");
    await expect(page.getByTestId("empty")).toContainText("tidegate send");
    await shot(page, "empty");

    device = new Device(url, "e2e-1");
    await expect(option(page)).toHaveCount(1);
    await drawn(page);
    await page.evaluate(() => Object.assign(window, { notReloaded: true }));
    await expect.poll(() => lastSeq(page)).toBeGreaterThan(40);

    await server.kill();
    await expect(page.getByTestId("connection")).toHaveAttribute("data-state", /waiting|connecting/);
    await expect(page.getByTestId("connection")).toContainText("Reconnecting");
    const cutAt = await lastSeq(page);
    await shot(page, "reconnecting");
    await drawn(page);

    server = new Server(args, dir.path);
    await server.ready(url);
    await expect(page.getByTestId("connection")).toHaveAttribute("data-state", "live", { timeout: 30_000 });
    await expect.poll(() => lastSeq(page)).toBeGreaterThan(cutAt + 20);
    await expect(option(page).first()).not.toHaveAttribute("data-state", "offline");
    expect(await page.evaluate(() => "notReloaded" in window)).toBe(true);
    await shot(page, "recovered");
  } finally {
    device?.stop();
    await server.kill();
    dir.remove();
  }
});
