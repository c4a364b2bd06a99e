// What people do all day, with every way the official client can speak.

import assert from "node:assert/strict";
import test from "node:test";
import { Client, isRefusal, named, VARIANTS } from "../support/client.js";
import { messageId } from "../support/random.js";
import { Server } from "../support/server.js";

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

async function refusal(promise, code) {
  await assert.rejects(promise, (error) => {
    assert.ok(isRefusal(error), `not an answer of the server: ${error.message}`);
    assert.equal(error.message.split(":")[0], code, error.message);
    return true;
  });
}

for (const variant of VARIANTS) {
  test(`a conversation (${named(variant)})`, async (t) => {
    const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "10000" });
    const [alice, bob] = await Promise.all(["alice", "bob"].map((user) => Client.connect(server, user, variant)));

    await t.test("what one says, both receive, with every field", async () => {
      const scope = "Channel:fields";
      const joined = await alice.join(scope);
      await bob.join(scope);
      assert.equal(joined.scope, scope);
      assert.deepEqual([joined.messages, joined.recovered, joined.hasMore], [[], true, false]);
      const id = messageId();
      const text = "Grüße, 世界! 👋🏽\n\u0000\u001e\"<b>&amp;";
      const sent = await alice.send(scope, text, id);
      await Promise.all([alice, bob].map((person) => person.untilText(scope, text)));
      const received = bob.view(scope).messages[0];
      assert.deepEqual(alice.view(scope).messages, [received]);
      const { createdAtUtc, originPodId, partition, offset, position, ...rest } = received;
      assert.deepEqual(rest, { messageId: id, scopeType: "Channel", scopeId: "fields", senderId: "alice", text });
      assert.match(createdAtUtc, TIME);
      assert.ok(typeof originPodId === "string" && originPodId.length > 0);
      assert.ok([partition, offset, position].every(Number.isSafeInteger));
      assert.deepEqual([sent.partition, sent.offset, sent.position], [partition, offset, position]);
      assert.equal(sent.chatEvent.messageId, id);
    });

    await t.test("every length of text that is allowed arrives as it was written", async () => {
      const scope = "Channel:lengths";
      await bob.join(scope);
      const texts = ["", " ", "x", "é".repeat(4096), "🦀".repeat(4096), "end"];
      for (const text of texts) await alice.send(scope, text);
      await bob.until(() => bob.view(scope).messages.length === texts.length, "all texts");
      assert.deepEqual(bob.texts(scope), texts);
    });

    await t.test("a message without an id gets one", async () => {
      const sent = await alice.invoke("Send", { scopeType: "Channel", scopeId: "no-id", text: "hello" });
      assert.match(sent.chatEvent.messageId, UUID);
    });

    await t.test("a bare name is a channel", async () => {
      const answer = await alice.invoke("JoinScope", "bare");
      assert.equal(answer.scope, "Channel:bare");
    });

    await t.test("a heartbeat is answered with nothing", async () => {
      assert.ok((await alice.invoke("Heartbeat")) == null);
    });

    await t.test("a join without a position gives the newest, with one it gives what came behind it", async () => {
      const scope = "Channel:pages";
      await bob.join(scope);
      const positions = [];
      for (let number = 0; number < 8; number++) positions.push((await alice.send(scope, `${number}`)).position);
      // A join answers with what has been delivered; what was only accepted follows live.
      await bob.untilText(scope, "7");
      const newest = await bob.invoke("JoinScope", scope, { limit: 3 });
      assert.deepEqual(newest.messages.map(({ text }) => text), ["5", "6", "7"]);
      assert.ok(newest.position >= positions.at(-1));
      const behind = await bob.invoke("JoinScope", scope, { after: positions[4] });
      assert.deepEqual(behind.messages.map(({ text }) => text), ["5", "6", "7"]);
      assert.deepEqual([behind.recovered, behind.hasMore], [true, false]);
      const part = await bob.invoke("JoinScope", scope, { after: positions[0], limit: 2 });
      assert.deepEqual(part.messages.map(({ text }) => text), ["1", "2"]);
      assert.deepEqual([part.recovered, part.reason, part.hasMore], [false, "limit", true]);
      await bob.invoke("LeaveScope", scope);
    });

    await t.test("after leaving, nothing arrives until one comes back and gets it all", async () => {
      const scope = "Channel:left";
      await Promise.all([alice, bob].map((person) => person.join(scope)));
      await alice.send(scope, "before");
      await bob.untilText(scope, "before");
      await bob.invoke("LeaveScope", scope);
      await alice.send(scope, "meanwhile 1");
      await alice.send(scope, "meanwhile 2");
      await alice.untilText(scope, "meanwhile 2");
      assert.deepEqual(bob.texts(scope), ["before"]);
      const back = await bob.invoke("JoinScope", scope, { after: bob.view(scope).cursor });
      assert.deepEqual(back.messages.map(({ text }) => text), ["meanwhile 1", "meanwhile 2"]);
      assert.deepEqual(bob.texts(scope), ["before"]);
      await bob.invoke("LeaveScope", scope);
    });

    await t.test("a repeated id has the first one's position and appears once; another text is a conflict", async () => {
      const scope = "Channel:repeats";
      await bob.join(scope);
      const id = messageId();
      const first = await alice.send(scope, "once", id);
      const again = await Promise.all([alice.send(scope, "once", id), alice.send(scope, "once", id)]);
      assert.deepEqual(again.map(({ position }) => position), [first.position, first.position]);
      await refusal(alice.send(scope, "other words", id), "CONFLICT");
      // A conflict is one from the moment on at which the first was answered.
      for (let number = 0; number < 20; number++) {
        const own = messageId();
        await alice.send("Channel:conflicts", "first", own);
        await refusal(alice.send("Channel:conflicts", "second", own), "CONFLICT");
      }
      const others = await bob.send(scope, "once", id);
      assert.notEqual(others.position, first.position, "an id belongs to its sender");
      await alice.send(scope, "end");
      await bob.untilText(scope, "end");
      assert.deepEqual(bob.view(scope).messages.map(({ senderId, text }) => `${senderId}: ${text}`), ["alice: once", "bob: once", "alice: end"]);
    });

    await t.test("a direct message is for its people only", async () => {
      const scope = "DirectMessage:alice+bob";
      const carol = await Client.connect(server, "carol", variant);
      await Promise.all([alice, bob].map((person) => person.join(scope)));
      await bob.send(scope, "between us");
      await Promise.all([alice, bob].map((person) => person.untilText(scope, "between us")));
      await refusal(carol.invoke("JoinScope", scope), "FORBIDDEN");
      await refusal(carol.send(scope, "let me in"), "FORBIDDEN");
      await refusal(alice.invoke("JoinScope", "DirectMessage:bob+alice"), "VALIDATION_ERROR");
      assert.deepEqual(alice.texts(scope), ["between us"]);
    });

    await t.test("what cannot be done is answered with its code, and the connection stays", async () => {
      const good = { scopeType: "Channel", scopeId: "errors", text: "x" };
      await refusal(alice.send("Channel:errors", "x".repeat(4097)), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send", { ...good, messageId: "not a uuid" }), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send", { ...good, scopeType: "Room" }), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send", { ...good, scopeId: "" }), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send", { ...good, scopeId: "x".repeat(257) }), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send", { ...good, text: 7 }), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send", { scopeType: "Channel", scopeId: "errors" }), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send", "words"), "VALIDATION_ERROR");
      await refusal(alice.invoke("Send"), "VALIDATION_ERROR");
      await refusal(alice.invoke("JoinScope"), "VALIDATION_ERROR");
      await refusal(alice.invoke("JoinScope", 7), "VALIDATION_ERROR");
      await refusal(alice.invoke("JoinScope", "Room:x"), "VALIDATION_ERROR");
      await refusal(alice.invoke("JoinScope", "errors", { after: -1 }), "VALIDATION_ERROR");
      await refusal(alice.invoke("JoinScope", "errors", { limit: 501 }), "VALIDATION_ERROR");
      await assert.rejects(alice.invoke("NoSuchMethod", 1, 2), isRefusal);
      await alice.send("Channel:errors", "still here");
      assert.equal(alice.reconnects, 0);
    });

    await t.test("a broken connection comes back by itself and has missed nothing", async () => {
      const scope = "Channel:broken";
      await Promise.all([alice, bob].map((person) => person.join(scope)));
      await alice.send(scope, "1");
      await bob.untilText(scope, "1");
      const before = bob.reconnects;
      bob.breakConnection();
      for (const text of ["2", "3", "4"]) await alice.send(scope, text);
      await bob.until(() => bob.reconnects > before, "a reconnect");
      await bob.untilText(scope, "4");
      assert.deepEqual(bob.texts(scope), ["1", "2", "3", "4"]);
      await bob.sendUntilAnswered(scope, "5");
      await alice.untilText(scope, "5");
      assert.deepEqual(alice.texts(scope), ["1", "2", "3", "4", "5"]);
    });

    await t.test("who stayed away resumes at the position where they left", async () => {
      const scope = "Channel:away";
      const carol = await Client.connect(server, "carol", variant);
      await Promise.all([alice, carol].map((person) => person.join(scope)));
      await alice.send(scope, "seen");
      await carol.untilText(scope, "seen");
      await carol.hub.stop();
      for (let number = 1; number <= 20; number++) await alice.send(scope, `missed ${number}`);
      await alice.untilText(scope, "missed 20");
      await carol.hub.start();
      const answer = await carol.invoke("JoinScope", scope, { after: carol.view(scope).cursor });
      assert.deepEqual(answer.messages.map(({ text }) => text), Array.from({ length: 20 }, (_, index) => `missed ${index + 1}`));
      assert.deepEqual([answer.recovered, answer.hasMore], [true, false]);
    });
  });
}
