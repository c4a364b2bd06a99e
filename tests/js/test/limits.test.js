// What the server refuses before it listens to what is said.

import assert from "node:assert/strict";
import test from "node:test";
import { Client, named, VARIANTS } from "../support/client.js";
import { Server } from "../support/server.js";

test("who sends too much is told so, on the hub and over HTTP, and others are not touched", async (t) => {
  const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "5", LIMITS__SEND_WINDOW: "3600s" });
  const alice = await Client.connect(server, "alice", { protocol: "json" });
  const alsoAlice = await Client.connect(server, "alice", { protocol: "messagepack" });
  const bob = await Client.connect(server, "bob");
  for (let number = 0; number < 5; number++) await alice.send("Channel:limits", `${number}`);
  const refused = /^RATE_LIMIT_EXCEEDED: ./;
  await assert.rejects(alice.send("Channel:limits", "too much"), ({ message }) => refused.test(message));
  await assert.rejects(alsoAlice.send("Channel:limits", "from elsewhere"), ({ message }) => refused.test(message));
  const response = await server.fetch(await server.token("alice"), "/api/scopes/Channel/limits/messages", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text: "over HTTP" }),
  });
  assert.equal(response.status, 429);
  assert.match(response.headers.get("retry-after"), /^[1-9]\d*$/);
  assert.equal((await response.json()).code, "RATE_LIMIT_EXCEEDED");
  await bob.send("Channel:limits", "bob may");
  const { items } = await server.history(await server.token("bob"), "Channel:limits");
  assert.deepEqual(items.map(({ text }) => text), ["0", "1", "2", "3", "4", "bob may"]);
});

test("nobody gets in without a token that is good", async (t) => {
  const server = await Server.start(t);
  const good = await server.token("alice");
  const [head, body, signature] = good.split(".");
  const forged = Buffer.from(JSON.stringify({ ...JSON.parse(Buffer.from(body, "base64url")), sub: "bob" })).toString("base64url");
  const tokens = { "no token": "", "not a token": "x", "another's name": [head, forged, signature].join("."), "no signature": `${head}.${body}.` };
  for (const variant of VARIANTS) {
    for (const [name, token] of Object.entries(tokens)) {
      await t.test(`${name} (${named(variant)})`, async () => {
        await assert.rejects(new Client(server, token, variant).hub.start());
      });
    }
  }
  const response = await server.fetch("x", "/api/scopes/Channel/general/messages");
  assert.equal(response.status, 401);
  assert.equal((await response.json()).code, "UNAUTHENTICATED");
});
