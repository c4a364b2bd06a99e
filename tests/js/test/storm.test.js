// The promise, under connections that break all the time.

import assert from "node:assert/strict";
import test from "node:test";
import { Client } from "../support/client.js";
import { messageId, seeded } from "../support/random.js";
import { Server } from "../support/server.js";

const SEED = Number(process.env.CHATIFY_TEST_SEED ?? 20_261_121);
const MESSAGES = 2_000;
const IN_FLIGHT = 8;
const BREAK_AT_SEND = 1 / 60;
const BREAK_AT_ARRIVAL = 1 / 120;
const SCOPE = "Channel:storm";
const STORM_DEADLINE_MS = 240_000;

/** Sends every message, up to `IN_FLIGHT` at once, each repeated under its id until it is answered. */
async function sendAll(client, user, random) {
  const sent = new Map();
  let next = 0;
  const sender = async () => {
    while (next < MESSAGES) {
      const text = `${user} ${next++}`;
      const id = messageId();
      sent.set(id, text);
      const answer = client.sendUntilAnswered(SCOPE, text, id);
      // Breaks what has just been written, so that some sends are lost on the way there.
      if (random() < BREAK_AT_SEND) client.breakConnection();
      await answer;
    }
  };
  // Breaks at an arrival, so that some sends are accepted and only their answers are lost.
  client.onMessage = () => random() < BREAK_AT_ARRIVAL && client.breakConnection();
  await Promise.all(Array.from({ length: IN_FLIGHT }, sender));
  client.onMessage = () => {};
  return sent;
}

async function historyForward(server, token) {
  const all = [];
  for (let page = null; !page?.newestReached; all.push(...page.items)) {
    page = await server.history(token, SCOPE, `after=${all.at(-1)?.position ?? 0}&limit=500`);
    assert.ok(page.complete && (page.newestReached || page.items.length > 0), "a page leads on");
  }
  return all;
}

async function historyBackward(server, token) {
  const all = [];
  for (let page = null; !page?.oldestReached; all.unshift(...page.items)) {
    page = await server.history(token, SCOPE, `limit=500${all.length > 0 ? `&before=${all[0].position}` : ""}`);
    assert.ok(page.complete && (page.oldestReached || page.items.length > 0), "a page leads on");
  }
  return all;
}

test(`two clients, ${MESSAGES} messages each, disconnected at random: every message once, in one order (seed ${SEED})`, { timeout: STORM_DEADLINE_MS }, async (t) => {
  const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "1000000" });
  const alice = await Client.connect(server, "alice", { protocol: "json", negotiate: true });
  const bob = await Client.connect(server, "bob", { protocol: "messagepack", negotiate: false });
  await Promise.all([alice.join(SCOPE), bob.join(SCOPE)]);
  const sent = await Promise.all([sendAll(alice, "alice", seeded(SEED)), sendAll(bob, "bob", seeded(SEED + 1))]);

  // Everything is answered, so it is in the log; a last message behind it shows that both have seen all of it.
  await alice.sendUntilAnswered(SCOPE, "end");
  await Promise.all([alice, bob].map((client) => client.untilText(SCOPE, "end")));
  t.diagnostic(`${alice.reconnects} reconnects of alice, ${bob.reconnects} of bob`);
  assert.ok(alice.reconnects > 10 && bob.reconnects > 10, "connections were broken");

  const seen = alice.view(SCOPE).messages;
  const ids = (messages) => messages.map((message) => message.messageId);
  const expected = new Map([...sent[0], ...sent[1]]);
  assert.equal(seen.length, 2 * MESSAGES + 1);
  assert.equal(new Set(ids(seen)).size, seen.length, "each once");
  for (const { messageId: id, text, senderId } of seen.slice(0, -1)) {
    assert.equal(text, expected.get(id));
    assert.equal(senderId, text.split(" ")[0]);
  }
  assert.deepEqual(ids(bob.view(SCOPE).messages), ids(seen), "one order for both");
  assert.ok(seen.every((message, index) => index === 0 || message.position > seen[index - 1].position), "positions ascend");

  const token = await server.token("carol");
  assert.deepEqual(await historyForward(server, token), seen, "history forward");
  assert.deepEqual(await historyBackward(server, token), seen, "history backward");
});
