// What is there for everything that is no SignalR client: history over HTTP, and the stream.

import assert from "node:assert/strict";
import test from "node:test";
import { Client } from "../support/client.js";
import { EventStream } from "../support/events.js";
import { messageId } from "../support/random.js";
import { Server } from "../support/server.js";

const SCOPE = "Channel:x";
const PATH = "/api/scopes/Channel/x/events";

test("server-sent events", async (t) => {
  const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "10000" });
  const token = await server.token("watcher");
  const alice = await Client.connect(server, "alice");

  await t.test("carry what is said, with the position as id", async () => {
    const stream = await EventStream.open(server, token, PATH);
    assert.equal(stream.response.status, 200);
    assert.match(stream.response.headers.get("content-type"), /^text\/event-stream/);
    assert.equal(stream.response.headers.get("cache-control"), "no-store");
    const texts = ["one", "two\nlines", "three"];
    for (const text of texts) await alice.send(SCOPE, text);
    await stream.until(() => stream.events.length === texts.length, "three events");
    const { items } = await server.history(token, SCOPE);
    assert.deepEqual(stream.messages, items);
    assert.deepEqual(stream.events.map(({ id }) => id), items.map(({ position }) => String(position)));
    stream.close();
    await stream.ended;
  });

  await t.test("resume behind the last id that was seen, and go on live", async () => {
    const { items } = await server.history(token, SCOPE);
    for (let number = 1; number <= 600; number++) await alice.send(SCOPE, `missed ${number}`);
    const stream = await EventStream.open(server, token, PATH, items.at(-1).position);
    await stream.until(() => stream.events.length === 600, () => `600 events, have ${stream.events.length}`);
    await alice.send(SCOPE, "live");
    await stream.until(() => stream.events.length === 601, "the live one");
    assert.deepEqual(stream.messages.map(({ text }) => text), [...Array.from({ length: 600 }, (_, index) => `missed ${index + 1}`), "live"]);
    stream.close();
    await stream.ended;
  });

  await t.test("are refused as everything else is", async () => {
    assert.equal((await EventStream.open(server, "x", PATH)).response.status, 401);
    assert.equal((await EventStream.open(server, token, "/api/scopes/DirectMessage/alice+bob/events")).response.status, 403);
    assert.equal((await EventStream.open(server, token, PATH, "yesterday")).response.status, 400);
  });
});

test("the history over HTTP", async (t) => {
  const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "10000" });
  const token = await server.token("alice");
  const alice = await Client.connect(server, "alice");
  const post = (body) =>
    server.fetch(token, "/api/scopes/Channel/http/messages", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

  await t.test("has what was sent just before, from the hub and over HTTP", async () => {
    for (let number = 1; number <= 50; number++) {
      const hub = await alice.send("Channel:http", `hub ${number}`);
      assert.deepEqual((await server.history(token, "Channel:http", "limit=1")).items.map(({ position }) => position), [hub.position]);
      const response = await post({ text: `http ${number}` });
      assert.equal(response.status, 201);
      const sent = await response.json();
      assert.deepEqual((await server.history(token, "Channel:http", "limit=1")).items.map(({ position }) => position), [sent.position]);
    }
  });

  await t.test("gives one message by its id, and says when there is none", async () => {
    const id = messageId();
    const sent = await (await post({ text: "look me up", messageId: id })).json();
    const found = await server.fetch(token, `/api/scopes/Channel/http/messages/${id}`);
    assert.equal(found.status, 200);
    assert.deepEqual(await found.json(), sent.chatEvent);
    const missing = await server.fetch(token, `/api/scopes/Channel/http/messages/${messageId()}`);
    assert.equal(missing.status, 404);
    const problem = await missing.json();
    assert.equal(problem.code, "NOT_FOUND");
    assert.equal(problem.correlationId, missing.headers.get("x-correlation-id"));
  });

  await t.test("repeats and conflicts as the hub does", async () => {
    const id = messageId();
    const first = await alice.send("Channel:http", "once", id);
    const again = await post({ text: "once", messageId: id });
    assert.equal((await again.json()).position, first.position);
    const conflict = await post({ text: "twice", messageId: id });
    assert.equal(conflict.status, 409);
    assert.equal((await conflict.json()).code, "CONFLICT");
  });
});
