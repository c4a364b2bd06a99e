// Connections that the server ends: it restarts, or a token's time is over.

import assert from "node:assert/strict";
import test from "node:test";
import { Client, named, VARIANTS } from "../support/client.js";
import { Server } from "../support/server.js";

const SCOPE = "Channel:life";

test("clients come back to a restarted server and resume, and sends meanwhile are accepted once", async (t) => {
  const server = await Server.start(t, { LIMITS__SEND_MESSAGES: "10000" });
  const clients = await Promise.all(VARIANTS.map((variant, index) => Client.connect(server, `user-${index}`, variant)));
  await Promise.all(clients.map((client) => client.join(SCOPE)));
  await clients[0].send(SCOPE, "before");
  await Promise.all(clients.map((client) => client.untilText(SCOPE, "before")));
  for (const round of [1, 2]) {
    const stopped = server.stop();
    const sends = clients.map((client, index) => client.sendUntilAnswered(SCOPE, `round ${round}, user ${index}`));
    await stopped;
    await server.resume();
    await Promise.all(sends);
    await clients[0].sendUntilAnswered(SCOPE, `end of round ${round}`);
    await Promise.all(clients.map((client) => client.untilText(SCOPE, `end of round ${round}`)));
  }
  const expected = ["before", ...[1, 2].flatMap((round) => [...clients.map((_, index) => `round ${round}, user ${index}`), `end of round ${round}`])];
  const { items } = await server.history(await server.token("user-0"), SCOPE);
  for (const client of clients) {
    assert.ok(client.reconnects >= 2);
    assert.deepEqual(client.texts(SCOPE).sort(), expected.slice().sort(), "each message once");
    assert.deepEqual(client.view(SCOPE).messages, items, "the order of the history");
  }
});

for (const variant of VARIANTS) {
  test(`a token that expires ends its connection, and a new one resumes (${named(variant)})`, async (t) => {
    const server = await Server.start(t, { AUTH__LEEWAY: "0s" });
    const alice = await Client.connect(server, "alice", variant);
    const bob = await Client.withToken(server, await server.token("bob", ["--ttl", "6s"]), variant);
    await Promise.all([alice.join(SCOPE), bob.join(SCOPE)]);
    bob.renew(await server.token("bob"));
    await alice.send(SCOPE, "before");
    await bob.untilText(SCOPE, "before");
    // The official client reconnects only because the server's Close record says that it may.
    await bob.until(() => bob.reconnects === 1, "the end of the old token");
    await alice.send(SCOPE, "after");
    await bob.untilText(SCOPE, "after");
    assert.deepEqual(bob.texts(SCOPE), ["before", "after"]);
    assert.equal(alice.reconnects, 0);
  });
}
