// The real binary, started and stopped as an operator would.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DEADLINE_MS, within } from "./waiting.js";

const BINARY = process.env.CHATIFY_BIN ?? fileURLToPath(new URL("../../../target/debug/chatify", import.meta.url));
/** Whether the binary stands for three pods behind a load balancer. */
const CLUSTER = path.basename(BINARY) === "chatify-test-cluster";
const POLL_MS = 20;

/** One server with its own data directory, which it keeps over restarts. */
export class Server {
  #child = null;
  #log = "";
  #settings;
  #tokens = [];
  #endings = [];
  #directory;
  #listen = "127.0.0.1:0";

  constructor(directory, settings) {
    this.#directory = directory;
    this.#settings = settings;
  }

  /** Starts one that is gone, and found to have behaved, when the test (or suite) `t` ends. `settings`: `{ LIMITS__SEND_MESSAGES: "5" }`. */
  static async start(t, settings = {}) {
    const server = new Server(await mkdtemp(path.join(tmpdir(), "chatify-js-")), settings);
    t.after(() => server.#dispose());
    await server.resume();
    return server;
  }

  /** `http://127.0.0.1:PORT` */
  get url() {
    return `http://${this.#listen}`;
  }

  /** Starts it (again), on the address it had before, and waits until it is ready. */
  async resume() {
    const listening = path.join(this.#directory, "listening");
    await rm(listening, { force: true });
    this.#child = spawn(BINARY, [], { env: this.#environment(), cwd: this.#directory, stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => { this.#log += text; });
    }
    const exit = once(this.#child, "exit").then(([code, signal]) => {
      throw new Error(`the server ended with ${code ?? signal} before it was ready:\n${this.#log}`);
    });
    // Once it is ready nobody looks at this any more; its end is awaited elsewhere.
    exit.catch(() => {});
    this.#listen = await within(Promise.race([exit, this.#address(listening)]), "the server listening").catch((error) => {
      throw new Error(`${error.message}\n${this.#log}`);
    });
    await within(Promise.race([exit, this.#ready()]), "the server being ready");
  }

  /** It listens before it has read the end of its log, and refuses joins and sends until then. */
  async #ready() {
    for (const end = Date.now() + DEADLINE_MS; Date.now() < end; await pause(POLL_MS)) {
      const ready = await fetch(`${this.url}/health/ready`).then((answer) => answer.text().then(() => answer.ok), () => false);
      if (ready) return;
    }
  }

  /** The file is the only sign there is from outside, so it is polled. */
  async #address(file) {
    for (const end = Date.now() + DEADLINE_MS; Date.now() < end; await pause(POLL_MS)) {
      const text = await readFile(file, "utf8").catch(() => "");
      if (text.endsWith("\n")) return text.trim();
    }
    throw new Error("no address was written");
  }

  /** Asks it to stop as an orchestrator does and waits. It must end by itself, cleanly. */
  async stop() {
    const child = this.#child;
    if (child === null) return;
    this.#child = null;
    // Closed is it when its last words were read.
    const exit = child.exitCode === null && child.signalCode === null ? once(child, "close") : [child.exitCode, child.signalCode];
    child.kill("SIGTERM");
    try {
      const [code, signal] = await within(exit, "the server's end after SIGTERM");
      assert.deepEqual({ code, signal }, { code: 0, signal: null }, `the server did not end cleanly:\n${this.#log}`);
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    }
  }

  /** A token that the command line mints, for example with `["--ttl", "3s"]`. */
  async token(user, options = []) {
    const run = promisify(execFile)(BINARY, ["token", "--user", user, ...options], { env: this.#environment(), cwd: this.#directory });
    const token = (await run).stdout.trim();
    assert.match(token, /^[\w-]+\.[\w-]+\.[\w-]+$/, "`chatify token` prints the token and nothing else");
    this.#tokens.push(token);
    return token;
  }

  /** A request with this user's token. `path` begins with `/`. */
  async fetch(token, path, options = {}) {
    return fetch(this.url + path, { ...options, headers: { Authorization: `Bearer ${token}`, ...options.headers } });
  }

  /** One page of a scope's history. */
  async history(token, scope, query = "") {
    const [type, id] = [scope.slice(0, scope.indexOf(":")), scope.slice(scope.indexOf(":") + 1)];
    const response = await this.fetch(token, `/api/scopes/${type}/${encodeURIComponent(id)}/messages${query && `?${query}`}`);
    const body = await response.json();
    assert.equal(response.status, 200, JSON.stringify(body));
    return body;
  }

  /** Runs `ending` when the test is over and the server still runs. */
  beforeEnd(ending) {
    this.#endings.push(ending);
  }

  async #dispose() {
    try {
      const ended = await Promise.allSettled(this.#endings.map((ending) => ending()));
      const failed = ended.find(({ status }) => status === "rejected");
      if (failed) throw failed.reason;
      await this.stop();
      assert.doesNotMatch(this.#log, /panicked/, "the server panicked");
      for (const token of this.#tokens) assert.ok(!this.#log.includes(token), "a token is in the server's log");
    } finally {
      this.#child?.kill("SIGKILL");
      // What a cluster keeps in shared services does not go with the directory.
      if (CLUSTER) await promisify(execFile)(BINARY, ["forget"], { env: this.#environment(), cwd: this.#directory });
      await rm(this.#directory, { recursive: true, force: true });
    }
  }

  #environment() {
    const own = Object.entries(this.#settings).map(([name, value]) => [`CHATIFY__${name}`, value]);
    // Where the services of a cluster are is the machine's business; everything else is the test's.
    const kept = (name) => !name.startsWith("CHATIFY") || name.startsWith("CHATIFY_TEST_");
    const inherited = Object.entries(process.env).filter(([name]) => kept(name));
    return {
      ...Object.fromEntries(inherited),
      CHATIFY__SERVER__LISTEN: this.#listen,
      CHATIFY__SERVER__DATA_DIR: this.#directory,
      // Goodbyes are spread over this time; a few connections need no more.
      CHATIFY__SERVER__DRAIN_WINDOW: "200ms",
      ...Object.fromEntries(own),
    };
  }
}
