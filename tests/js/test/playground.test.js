// The playground as a newcomer meets it, in a real browser.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { assertAccessible, browser, watchedPage } from "../support/browser.js";
import { Client } from "../support/client.js";
import { Server } from "../support/server.js";

const ARTIFACTS = fileURLToPath(new URL("../artifacts/", import.meta.url));
const NARROW = { width: 360, height: 740 };
const WIDE = { width: 1280, height: 800 };

const side = (page, name) => page.getByRole("region", { name, exact: true });
const button = (root, name) => root.getByRole("button", { name, exact: true });
const texts = (root) => root.locator(".messages .text").allTextContents();
const numbered = (count, name) => Array.from({ length: count }, (_, index) => `${index + 1} of ${count} from ${name}`);

async function say(page, name, text) {
  const box = page.getByLabel(`Message from ${name}`, { exact: true });
  await box.fill(text);
  await box.press("Enter");
}

const heard = (root, text) => root.locator(".messages .text", { hasText: text }).last().waitFor();
const told = (root, words) => root.locator(".notice", { hasText: words }).waitFor();
const state = (root, words) => root.locator(".state", { hasText: new RegExp(`^${words}$`) }).waitFor();

/** Opens the link as the server prints it, and waits until both are in the channel. */
async function open(context, server, options, { rewriteResumes = false } = {}) {
  const tokens = { alice: await server.token("alice"), bob: await server.token("bob") };
  const { page, problems } = await watchedPage(context, server.url, options);
  const rewrites = rewriteResumes ? await rewriteAnswers(page) : [];
  await page.goto(`${server.url}/#alice=${tokens.alice}&bob=${tokens.bob}`);
  const [alice, bob] = [side(page, "alice"), side(page, "bob")];
  await Promise.all([state(alice, "connected"), state(bob, "connected")]);
  return { page, problems, alice, bob, tokens, rewrites };
}

/** Stands between page and server: the next answers to a resume become what the functions in the returned list make of them. */
async function rewriteAnswers(page) {
  const rewrites = [];
  await page.routeWebSocket(/\/hubs\/chat/, (browserSide) => {
    const resumes = new Map();
    const serverSide = browserSide.connectToServer();
    browserSide.onMessage((data) => {
      for (const record of data.split("\u001e").filter(Boolean).map((text) => JSON.parse(text))) {
        if (record.target === "JoinScope" && record.arguments[1].after !== undefined) resumes.set(record.invocationId, record.arguments[1].after);
      }
      serverSide.send(data);
    });
    serverSide.onMessage((data) => {
      const records = data.split("\u001e").filter(Boolean).map((text) => JSON.parse(text));
      const rewritten = records.map((record) => {
        if (record.type !== 3 || !resumes.has(record.invocationId) || rewrites.length === 0) return record;
        const answer = rewrites.shift()(record.result, resumes.get(record.invocationId));
        const { type, invocationId } = record;
        return answer instanceof Error ? { type, invocationId, error: answer.message } : { ...record, result: answer };
      });
      browserSide.send(rewritten.map((record) => `${JSON.stringify(record)}\u001e`).join(""));
    });
  });
  return rewrites;
}

async function assertTidy({ page, problems, tokens }) {
  assert.deepEqual(problems, []);
  const { html, stored, overflow } = await page.evaluate(() => ({
    html: document.documentElement.outerHTML,
    stored: Object.keys(localStorage).length + document.cookie.length,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  }));
  for (const token of Object.values(tokens)) assert.ok(!html.includes(token) && !page.url().includes(token), "a token is shown");
  assert.equal(stored, 0, "nothing outlives the tab");
  assert.ok(overflow <= 0, `the page is ${overflow} pixels too wide`);
}

/** Where everything is that must stay where it is while people write, leave and come back. */
async function layout(page) {
  return page.evaluate(() => {
    const fixed = "h1, .channel, .guide, .person, .person h2, .actions button, .notice, .scroll, .composer, .frames, .foot";
    return [...document.querySelectorAll(fixed)].map((element) => {
      const { x, y, width, height } = element.getBoundingClientRect();
      return `${element.tagName} ${element.className}: ${[x, y + scrollY, width, height].map(Math.round)}`;
    });
  });
}

test("the playground", async (t) => {
  await mkdir(ARTIFACTS, { recursive: true });
  const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "100000" });
  const context = await browser(t);
  const picture = (page, name) => page.screenshot({ path: `${ARTIFACTS}${name}.png` });

  await t.test("shows a conversation, a cut, and a resume that is complete and in order", async () => {
    const opened = await open(context, server, WIDE);
    const { page, alice, bob } = opened;
    assert.equal(page.url(), `${server.url}/`);
    await picture(page, "wide-start");
    await say(page, "alice", "Hello Bob!");
    await heard(bob, "Hello Bob!");
    await say(page, "bob", "Hello Alice, <b>nice</b> & plain");
    await Promise.all([alice, bob].map((person) => heard(person, "Hello Alice, <b>nice</b> & plain")));
    await button(bob, "Cut connection").click();
    await state(bob, "cut");
    await button(alice, "Send 20 quickly").click();
    await heard(alice, "20 of 20 from alice");
    assert.equal((await texts(bob)).length, 2);
    await page.getByText("bob is 20 messages behind alice.").waitFor();
    await picture(page, "wide-cut");
    await button(bob, "Reconnect").click();
    await told(bob, "resumed: 20 messages missed, all here, in order");
    await page.getByText("alice and bob hold the same 22 messages, in the same order.").waitFor();
    const expected = ["Hello Bob!", "Hello Alice, <b>nice</b> & plain", ...numbered(20, "alice")];
    assert.deepEqual(await texts(alice), expected);
    assert.deepEqual(await texts(bob), expected);
    const atEnd = (root) => root.locator(".scroll").evaluate((list) => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() => resolve(list.scrollHeight - list.scrollTop - list.clientHeight < 2)))));
    assert.ok(await atEnd(alice) && await atEnd(bob), "the newest message is in view");
    assert.equal(await bob.locator(".recovered").count(), 20);
    assert.equal(await alice.locator(".recovered").count(), 0);
    const positions = await bob.locator(".position").allTextContents();
    assert.ok(positions.every((position, index) => index === 0 || Number(position) > Number(positions[index - 1])));
    await picture(page, "wide-resumed");
    await bob.locator(".frames > summary").click();
    await alice.locator(".frames > summary").click();
    await bob.locator(".frames code", { hasText: "JoinScope" }).first().waitFor();
    await picture(page, "wide-frames");
    await assertTidy(opened);
    await page.close();
  });

  await t.test("repeats what was sent without a connection, once", async () => {
    const opened = await open(context, server, WIDE);
    const { page, alice, bob } = opened;
    await page.getByLabel("Channel", { exact: true }).fill("offline");
    await button(page, "Switch").click();
    await told(alice, "In channel offline");
    await told(bob, "In channel offline");
    await button(bob, "Cut connection").click();
    await say(page, "bob", "written offline");
    await say(page, "alice", "written meanwhile");
    await heard(alice, "written meanwhile");
    assert.equal(await bob.locator(".outbox .waiting").count(), 1);
    await button(bob, "Reconnect").click();
    await told(bob, "resumed: 1 message missed, all here, in order");
    await heard(alice, "written offline");
    await heard(bob, "written offline");
    assert.deepEqual(await texts(alice), ["written meanwhile", "written offline"]);
    assert.deepEqual(await texts(bob), ["written meanwhile", "written offline"]);
    assert.equal(await bob.locator(".outbox li").count(), 0);
    await assertTidy(opened);
    await page.close();
  });

  await t.test("pages through history what does not fit into a resume", async () => {
    const opened = await open(context, server, WIDE);
    const { page, alice, bob } = opened;
    await page.getByLabel("Channel", { exact: true }).fill("long");
    await button(page, "Switch").click();
    await Promise.all([told(alice, "In channel long"), told(bob, "In channel long")]);
    await button(bob, "Cut connection").click();
    const carol = await Client.connect(server, "carol");
    for (let number = 1; number <= 1_200; number += 50) {
      await Promise.all(Array.from({ length: 50 }, (_, index) => carol.send("Channel:long", `number ${number + index}`)));
    }
    await heard(alice, "number 1200");
    await button(bob, "Reconnect").click();
    await told(bob, "resumed: 1,200 messages missed, all here, in order");
    await page.getByText("alice and bob hold the same 1,200 messages, in the same order.").waitFor();
    const { items } = await server.history(opened.tokens.bob, "Channel:long", "limit=500");
    assert.deepEqual(await texts(bob), items.map(({ text }) => text));
    await assertTidy(opened);
    await page.close();
  });

  await t.test("claims only what the server vouches for, and what it can see itself", async () => {
    const opened = await open(context, server, WIDE, { rewriteResumes: true });
    const { page, alice, bob, rewrites } = opened;
    await page.getByLabel("Channel", { exact: true }).fill("doubts");
    await button(page, "Switch").click();
    await Promise.all([told(alice, "In channel doubts"), told(bob, "In channel doubts")]);
    let burst = 0;
    const resume = async (rewrite, words) => {
      await button(bob, "Cut connection").click();
      await button(alice, "Send 20 quickly").click();
      burst += 1;
      await alice.locator(".messages > li").nth(20 * burst - 1).waitFor();
      rewrites.push(rewrite);
      await button(bob, "Reconnect").click();
      await told(bob, words);
    };
    // The first answer has a gap; only the second one closes it.
    const behind = (result, after) => ({ ...result, recovered: false, reason: "historyBehind", hasMore: true, position: after, messages: result.messages.slice(10) });
    await resume(behind, "A part of the history cannot be read yet (historyBehind). Asking again.");
    await told(bob, "resumed: 20 messages missed, all here, in order");
    await page.getByText("alice and bob hold the same 20 messages, in the same order.").waitFor();
    await resume(() => new Error("STORE_UNAVAILABLE: the server is starting"), "STORE_UNAVAILABLE: the server is starting. Asking again.");
    await told(bob, "resumed: 20 messages missed, all here, in order");
    await page.getByText("alice and bob hold the same 40 messages, in the same order.").waitFor();
    await resume((result) => ({ ...result, messages: result.messages.toReversed() }), "resumed: 20 messages missed, but out of order.");
    await page.getByText("alice and bob hold different messages.").waitFor();
    await resume((result) => ({ ...result, recovered: false, reason: "positionUnknown" }), "The server's log does not know this place");
    assert.deepEqual(rewrites, []);
    await assertTidy(opened);
    await page.close();
  });

  await t.test("comes back by itself when the server restarts", async () => {
    const opened = await open(context, server, WIDE);
    const { page, alice, bob } = opened;
    await server.stop();
    await Promise.all([state(alice, "reconnecting"), state(bob, "reconnecting")]);
    await say(page, "alice", "said while the server was away");
    await server.resume();
    await told(bob, "resumed: ");
    await heard(bob, "said while the server was away");
    await heard(alice, "said while the server was away");
    // That the server could not be reached, or was not there yet, is in the console, as it should be; nothing else is.
    const unreachable = /net::ERR_(CONNECTION_\w+|EMPTY_RESPONSE)|status of 503|WebSocket connection to/;
    const others = opened.problems.filter((problem) => !unreachable.test(problem));
    await assertTidy({ ...opened, problems: others });
    await page.close();
  });

  await t.test("can be used with the keyboard alone", async () => {
    const opened = await open(context, server, WIDE);
    const { page, alice, bob } = opened;
    const focused = () => page.evaluate(() => {
      const { activeElement: active } = document;
      const style = getComputedStyle(active);
      return { name: active.getAttribute("aria-label") ?? active.textContent.trim(), visible: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0 };
    });
    const tabTo = async (name) => {
      for (let presses = 0; presses < 40; presses++) {
        await page.keyboard.press("Tab");
        const now = await focused();
        assert.ok(now.visible, `the focus on "${now.name}" cannot be seen`);
        if (now.name === name) return;
      }
      assert.fail(`"${name}" is not reached with Tab`);
    };
    await page.locator("body").press("Home");
    await tabTo("Message from alice");
    await page.keyboard.type("typed by hand");
    await page.keyboard.press("Enter");
    await heard(bob, "typed by hand");
    await tabTo("Cut connection");
    await page.keyboard.press("Enter");
    await state(bob, "cut");
    assert.equal((await focused()).name, "Reconnect");
    await page.keyboard.press("Space");
    await told(bob, "resumed: nothing was missed");
    await tabTo("Messages that bob sees");
    await tabTo("Message from bob");
    await page.keyboard.type("and answered");
    await page.keyboard.press("Enter");
    await heard(alice, "and answered");
    await page.locator("#announcer", { hasText: "bob to alice: and answered" }).waitFor({ state: "attached" });
    await assertTidy(opened);
    await page.close();
  });

  await t.test("is fit for a phone, in the light and in the dark, and for assistive technology", async () => {
    for (const [size, name] of [[NARROW, "narrow"], [WIDE, "wide"]]) {
      for (const colorScheme of ["light", "dark"]) {
        const opened = await open(context, server, { ...size, colorScheme });
        const { page, alice, bob } = opened;
        await page.getByLabel("Channel", { exact: true }).fill(`${name}-${colorScheme}`);
        await button(page, "Switch").click();
        await told(bob, `In channel ${name}-${colorScheme}`);
        const before = await layout(page);
        await say(page, "alice", `A longer message, ${"which wraps over several lines, ".repeat(4)}and a word ${"without-end".repeat(12)}`);
        await heard(bob, "A longer message");
        await button(bob, "Cut connection").click();
        await say(page, "bob", "not yet sent");
        await button(alice, "Send 20 quickly").click();
        await heard(alice, "20 of 20 from alice");
        assert.deepEqual(await layout(page), before, "nothing moves while one is cut off");
        await assertAccessible(page, `${name} ${colorScheme}, cut`);
        await page.screenshot({ path: `${ARTIFACTS}${name}-${colorScheme}-cut.png`, fullPage: true });
        await button(bob, "Reconnect").click();
        await told(bob, "resumed: 20 messages missed, all here, in order");
        await heard(alice, "not yet sent");
        assert.deepEqual(await layout(page), before, "nothing moves when one comes back");
        await alice.locator(".frames > summary").click();
        await assertAccessible(page, `${name} ${colorScheme}, resumed`);
        await picture(page, `${name}-${colorScheme}`);
        await page.screenshot({ path: `${ARTIFACTS}${name}-${colorScheme}-full.png`, fullPage: true });
        await assertTidy(opened);
        await page.close();
      }
    }
  });

  await t.test("says what to do without tokens, and takes pasted ones", async () => {
    const fresh = await browser(t);
    const { page, problems } = await watchedPage(fresh, server.url, NARROW);
    await page.goto(`${server.url}/`);
    await page.getByText("chatify token --user alice").waitFor();
    await assertAccessible(page, "signed out");
    await picture(page, "narrow-signed-out");
    await page.getByLabel("First person's token").fill("rubbish");
    await page.getByLabel("Second person's token").fill("rubbish");
    await button(page, "Start").click();
    await page.getByText("That is not a token.").waitFor();
    const tokens = { alice: await server.token("alice"), bob: await server.token("bob") };
    await page.getByLabel("First person's token").fill(tokens.alice);
    await page.getByLabel("Second person's token").fill(tokens.bob);
    await page.getByLabel("Second person's token").press("Enter");
    await state(side(page, "alice"), "connected");
    await say(page, "alice", "pasted");
    await heard(side(page, "bob"), "pasted");
    await page.reload();
    await state(side(page, "bob"), "connected");
    await heard(side(page, "bob"), "pasted");
    await assertTidy({ page, problems, tokens });
  });
});

test("the playground says in words what the server refuses", async (t) => {
  const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "25", LIMITS__SEND_WINDOW: "3600s", AUTH__LEEWAY: "0s" });
  const context = await browser(t);

  await t.test("too many messages", async () => {
    const opened = await open(context, server, WIDE);
    const { page, alice, bob } = opened;
    await button(alice, "Send 20 quickly").click();
    await heard(bob, "20 of 20 from alice");
    await button(alice, "Send 20 quickly").click();
    await told(alice, "RATE_LIMIT_EXCEEDED: ");
    await alice.locator(".failed").nth(14).waitFor();
    await page.screenshot({ path: `${ARTIFACTS}wide-refused.png` });
    for (let left = 15; left > 0; left--) await button(alice.locator(".failed").first(), "Discard").click();
    await alice.locator(".outbox li").first().waitFor({ state: "detached" });
    await assertTidy(opened);
    await page.close();
  });

  await t.test("a token whose time is over", async () => {
    const { page } = await watchedPage(context, server.url, WIDE);
    const [alice, bob] = [await server.token("alice"), await server.token("bob", ["--ttl", "1s"])];
    await page.goto(`${server.url}/#alice=${alice}&bob=${bob}`);
    await page.getByText("bob is signed out. UNAUTHENTICATED: ").waitFor();
    await page.getByText("chatify token --user bob").waitFor();
  });
});
