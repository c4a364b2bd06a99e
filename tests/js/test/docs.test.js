// The page that shows the HTTP API.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { assertAccessible, browser, watchedPage } from "../support/browser.js";
import { Server } from "../support/server.js";

const ARTIFACTS = fileURLToPath(new URL("../artifacts/", import.meta.url));

test("the API's page", async (t) => {
  await mkdir(ARTIFACTS, { recursive: true });
  const server = await Server.start(t);
  const context = await browser(t);
  const { paths } = await (await fetch(`${server.url}/openapi.json`)).json();

  await t.test("shows every operation, is fit for every screen and reaches for nothing outside", async () => {
    for (const [name, size] of Object.entries({ narrow: { width: 360, height: 740 }, wide: { width: 1280, height: 800 } })) {
      for (const colorScheme of ["light", "dark"]) {
        const { page, problems } = await watchedPage(context, server.url, { ...size, colorScheme });
        await page.goto(`${server.url}/docs`);
        for (const path of Object.keys(paths)) await page.getByText(path, { exact: true }).first().waitFor();
        await page.screenshot({ path: `${ARTIFACTS}docs-${name}-${colorScheme}.png` });
        await page.locator("details").evaluateAll((all) => all.forEach((details) => { details.open = true; }));
        await assertAccessible(page, `the API's page, ${name} ${colorScheme}`);
        await page.screenshot({ path: `${ARTIFACTS}docs-${name}-${colorScheme}-open.png`, fullPage: true });
        const overflow = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.ok(overflow <= 0, `the page is ${overflow} pixels too wide`);
        assert.deepEqual(problems, []);
        await page.close();
      }
    }
  });

  await t.test("lets one send a message and read it", async () => {
    const { page, problems } = await watchedPage(context, server.url);
    await page.goto(`${server.url}/docs`);
    await page.getByLabel(/Token/).fill(await server.token("alice"));
    const use = async (method, values) => {
      const [path] = Object.entries(paths).find(([each, methods]) => each.endsWith("/messages") && methods[method]);
      const operation = page.locator("details.operation", { has: page.getByText(method.toUpperCase(), { exact: true }) })
        .filter({ has: page.getByText(path, { exact: true }) });
      await operation.locator("summary").click();
      for (const [label, value] of Object.entries(values)) await operation.getByLabel(label, { exact: true }).fill(value);
      await operation.getByRole("button", { name: "Send", exact: true }).click();
      return operation;
    };
    const place = { scopeType: "Channel", scopeId: "docs" };
    const sent = await use("post", { ...place, body: JSON.stringify({ text: "sent from the page" }) });
    await sent.getByText("201 Created").waitFor();
    const read = await use("get", place);
    await read.getByText("200 OK").waitFor();
    assert.match(await read.locator("form pre").textContent(), /sent from the page/);
    assert.deepEqual(problems, []);
  });
});
