// Server-sent events over `fetch`, which can send a token and a position as `EventSource` in Node cannot.

import { Watched } from "./waiting.js";

/** One stream. `events` grows as they arrive: `{ id, event, data }`. */
export class EventStream extends Watched {
  events = [];
  #abort = new AbortController();

  static async open(server, token, path, lastEventId) {
    const stream = new EventStream();
    const headers = { Accept: "text/event-stream", ...(lastEventId === undefined ? {} : { "Last-Event-ID": String(lastEventId) }) };
    const response = await server.fetch(token, path, { headers, signal: stream.#abort.signal });
    stream.response = response;
    server.beforeEnd(() => stream.close());
    if (response.ok) stream.ended = stream.#read(response.body);
    return stream;
  }

  close() {
    this.#abort.abort();
  }

  /** The messages that came. */
  get messages() {
    return this.events.map(({ data }) => JSON.parse(data));
  }

  async #read(body) {
    let text = "";
    try {
      for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) this.#block(block);
        this.changed();
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  #block(block) {
    const fields = { id: undefined, event: "message", data: undefined };
    for (const line of block.split("\n")) {
      const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
      if (name in fields) fields[name] = name === "data" && fields.data !== undefined ? `${fields.data}\n${value}` : value;
    }
    // A block without data is a comment that keeps the connection alive.
    if (fields.data !== undefined) this.events.push(fields);
  }
}
