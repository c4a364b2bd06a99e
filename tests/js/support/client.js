// A person with the official SignalR client, who resumes by position as docs/PROTOCOL.md tells clients to.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import { HttpTransportType, HubConnectionBuilder, HubConnectionState, JsonHubProtocol, LogLevel } from "@microsoft/signalr";
import { MessagePackHubProtocol } from "@microsoft/signalr-protocol-msgpack";
import WebSocket from "ws";
import { messageId } from "./random.js";
import { Watched, within } from "./waiting.js";

const RECONNECT_DELAY_MS = 20;

/** Every way the official client can speak to the hub. */
export const VARIANTS = [
  { protocol: "json", negotiate: true },
  { protocol: "json", negotiate: false },
  { protocol: "messagepack", negotiate: true },
  { protocol: "messagepack", negotiate: false },
];

/** How a variant is called in a test's name. */
export const named = ({ protocol, negotiate }) => `${protocol}, ${negotiate ? "negotiated" : "negotiation skipped"}`;

/** Whether the server answered with an error of its own, `CODE: sentence`; any other error is the connection's. */
export const isRefusal = (error) => /^[A-Z_]+: ./.test(error.message);

/** Whether docs/PROTOCOL.md says to repeat what was refused so; a server that has just started does. */
const passes = (error) => /^(STORE_UNAVAILABLE|EVENT_PRODUCTION_FAILED|TIMEOUT): /.test(error.message);

/** What one person has seen of one scope, in the order of arrival. */
class View {
  cursor = null;
  messages = [];
  joins = [];
  held = null;
}

export class Client extends Watched {
  #socket = null;
  #views = new Map();
  #token;
  /** Errors that no test may see: delivery that breaks the promise. */
  violations = [];
  /** How often the connection was made again. */
  reconnects = 0;
  /** Called with each live message, right when it arrives. */
  onMessage = () => {};

  constructor(server, token, { protocol = "json", negotiate = true } = {}) {
    super();
    this.#token = token;
    const client = this;
    // Keeps hold of the socket under the official client, so that a test can destroy it.
    class TrackedSocket extends WebSocket {
      constructor(...args) {
        super(...args);
        client.#socket = this;
      }
    }
    this.hub = new HubConnectionBuilder()
      .withUrl(`${server.url}/hubs/chat`, {
        accessTokenFactory: () => this.#token,
        WebSocket: TrackedSocket,
        transport: HttpTransportType.WebSockets,
        skipNegotiation: !negotiate,
      })
      .withHubProtocol(protocol === "json" ? new JsonHubProtocol() : new MessagePackHubProtocol())
      .withAutomaticReconnect({ nextRetryDelayInMilliseconds: () => RECONNECT_DELAY_MS })
      .configureLogging(LogLevel.None)
      .build();
    this.hub.on("ReceiveMessage", (message) => this.#receive(message));
    this.hub.onreconnecting(() => this.changed());
    this.hub.onclose(() => this.changed());
    this.hub.onreconnected(() => {
      this.reconnects += 1;
      this.changed();
      return this.#resume();
    });
  }

  /** Connects `user`. The connection ends with the server, which then also looks that nothing was out of order. */
  static async connect(server, user, variant) {
    return Client.withToken(server, await server.token(user), variant);
  }

  static async withToken(server, token, variant) {
    const client = new Client(server, token, variant);
    server.beforeEnd(async () => {
      await client.hub.stop();
      assert.deepEqual(client.violations, [], "what a client saw");
    });
    await within(client.hub.start(), "the start of a connection");
    return client;
  }

  /** Takes this token from the next reconnect on. */
  renew(token) {
    this.#token = token;
  }

  /** Whether there is a connection; the official client says so a little longer than its socket lives. */
  get connected() {
    return this.hub.state === HubConnectionState.Connected && this.#socket.readyState === WebSocket.OPEN;
  }

  /** Calls a hub method, with a deadline. */
  invoke(method, ...args) {
    return within(this.hub.invoke(method, ...args), `the answer to ${method}`);
  }

  /** Joins; every later reconnect resumes there. */
  async join(scope, options) {
    this.#views.set(scope, new View());
    return this.#join(scope, options);
  }

  view(scope) {
    return this.#views.get(scope);
  }

  /** The texts seen in a scope, in order. */
  texts(scope) {
    return this.view(scope).messages.map((message) => message.text);
  }

  /** Sends once. */
  send(scope, text, id = messageId()) {
    const colon = scope.indexOf(":");
    return this.invoke("Send", { scopeType: scope.slice(0, colon), scopeId: scope.slice(colon + 1), text, messageId: id });
  }

  /** Sends, and repeats under the same id for as long as the connection ends before the answer, or the server says that it will pass. */
  async sendUntilAnswered(scope, text, id = messageId()) {
    for (;;) {
      try {
        return await this.send(scope, text, id);
      } catch (error) {
        if (passes(error)) await pause(RECONNECT_DELAY_MS);
        else if (isRefusal(error) || this.hub.state === HubConnectionState.Disconnected) throw error;
      }
      await this.until(() => this.connected, "a reconnect");
    }
  }

  /** Destroys the TCP connection under the client: nothing is flushed, no close frame is sent. */
  breakConnection() {
    this.#socket.terminate();
  }

  /** Waits until this text is the newest that was seen. */
  untilText(scope, text) {
    return this.until(() => this.view(scope).messages.at(-1)?.text === text, () => `seeing ${text}, have ${this.texts(scope).slice(-3)}`);
  }

  /** `toTheEnd` goes on where an answer was cut off, until nothing is missing. */
  async #join(scope, options, { toTheEnd = false } = {}) {
    const view = this.view(scope);
    // A live message can be handled before the code that awaits the answer goes on, so it waits for the answer's messages.
    view.held = [];
    let answer = await this.invoke("JoinScope", scope, options ?? {});
    const isCut = () => toTheEnd && answer.reason === "limit";
    const take = () => {
      // What stands behind the position of an answer that was cut off comes again.
      const proven = answer.messages.filter(({ position }) => !isCut() || position <= answer.position);
      proven.forEach((message) => this.#append(view, message));
      view.cursor = Math.max(view.cursor ?? 0, answer.position);
    };
    take();
    let pages = 1;
    for (; isCut(); pages += 1) {
      answer = await this.invoke("JoinScope", scope, { after: view.cursor });
      take();
    }
    view.joins.push(answer);
    const held = view.held;
    view.held = null;
    // What came live between two pages is also in the later one.
    held.filter(({ position }) => pages === 1 || position > view.cursor).forEach((message) => this.#append(view, message));
    this.changed();
    return answer;
  }

  async #joinUntilAnswered(scope, options) {
    for (;;) {
      try {
        return await this.#join(scope, options, { toTheEnd: true });
      } catch (error) {
        if (!passes(error)) throw error;
      }
      await pause(RECONNECT_DELAY_MS);
    }
  }

  async #resume() {
    for (const [scope, view] of this.#views) {
      try {
        await this.#joinUntilAnswered(scope, view.cursor === null ? {} : { after: view.cursor });
        if (!view.joins.at(-1).recovered) this.violations.push(`a resume of ${scope} was not complete: ${view.joins.at(-1).reason}`);
      } catch (error) {
        // The next reconnect resumes again; a refusal would be repeated for ever, so it counts.
        if (isRefusal(error)) this.violations.push(error.message);
      }
    }
  }

  #receive(message) {
    const view = this.view(`${message.scopeType}:${message.scopeId}`);
    if (view === undefined) this.violations.push(`a message of ${message.scopeId}, which was not joined`);
    else if (view.held) view.held.push(message);
    else this.#append(view, message);
    this.onMessage(message);
    this.changed();
  }

  #append(view, message) {
    if (view.cursor !== null && message.position <= view.cursor) {
      this.violations.push(`position ${message.position} after ${view.cursor}`);
    }
    view.cursor = message.position;
    view.messages.push(message);
  }
}
