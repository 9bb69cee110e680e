// The worker for JavaScript and TypeScript tools: loads one tool, answers one call, exits.
//
//   bun --no-env-file --config=/dev/null --no-install --tsconfig-override=/dev/null worker.mjs TOOL [EXPORT]
//   node --no-global-search-paths --experimental-detect-module --disable-warning=MODULE_TYPELESS_PACKAGE_JSON \
//     worker.mjs TOOL [EXPORT]
//   deno run --no-prompt --no-config --no-lock --unstable-detect-cjs … worker.mjs TOOL [EXPORT]
//
// Bun's flags, each against something in the working folder that would run, or change what runs: .env files,
// bunfig.toml (preload, define), imports fetched from the registry, a tsconfig.json or jsconfig.json whose `paths`
// catch the worker itself ("*" or "/tmp/*" is enough). A tool that needs its own tsconfig.json gets that file in
// place of /dev/null.
//
// It speaks JSON lines with the engine over two FIFOs in the folder $RUN_TOOL_CHANNEL:
//
//   ← {"type":"hello","protocol":1,"runtime":"bun","version":"1.4.5"}    both FIFOs are open, the tool is loaded next
//   ← {"type":"ready","input_schema":{…},"output_schema":{…}}            each schema only if the tool declares it
//   → {"type":"call","id":…,"tool":…,"input":…,"config":…}               on `call`; all the others are on `reply`
//   → {"type":"describe"}                                                in place of a call: the tool is not called, and
//                                                                        the value is {description, input_schema, …}
//   ← {"type":"progress","fraction":0.4,"message":"…","data":…}          any number; each field is optional
//   ← {"type":"log","level":"debug|info|warn|error","message":"…","data":…}
//   ← {"type":"result","value":…}                                        the last line, exit code 0; or this, with 1:
//   ← {"type":"error","phase":"load|run|result","name":…,"message":…,"stack":…,"data":…}
//
// stdout and stderr are the tool's own. What it printed is in the pipes before the last line is sent.

// Whatever the end of a call depends on is taken here, before the tool can replace it.
const { stringify, parse } = JSON;
const { apply } = Reflect;
const { wait } = Atomics;
const { Bun, Error, Promise, String, process, setImmediate, setTimeout } = globalThis;
const { now } = Date;
const nap = Bun?.sleep;
const { exit, on, reallyExit, getBuiltinModule, versions } = process;
const race = Promise.race.bind(Promise);
const allSettled = Promise.allSettled.bind(Promise);
const replace = Function.prototype.call.bind(String.prototype.replace);
const tagOf = Function.prototype.call.bind(Object.prototype.toString);
const encode = TextEncoder.prototype.encode.bind(new TextEncoder());
const decode = TextDecoder.prototype.decode.bind(new TextDecoder());
const builtin = getBuiltinModule
  ? (name) => apply(getBuiltinModule, process, [name])
  : (await import("node:module")).createRequire(import.meta.url); // node before 20.16

// ------------------------------------------------------------------------------------------------------ system calls

// node:fs takes Bun 3 ms to load, a third of a cold start; libc's own calls take 0.3 ms. They serve the normal course
// only: what is unusual (no glibc, any error) is left to node:fs, which knows about errno.
const libc = Bun ? loadLibc() : undefined;
let fs;
const nodeFs = () => (fs ??= builtin("node:fs"));

function loadLibc() {
  // Until 1.4.3, Bun says on stderr that it has a bug when it ends after --tsconfig-override. It is ended before that.
  const [major, minor, patch] = Bun.version.split(".").map((part) => Number.parseInt(part, 10));
  const complains = major < 2 && (minor < 4 || (minor === 4 && patch < 4));
  try {
    return Bun.FFI.dlopen("libc.so.6", {
      ...(complains ? { _exit: { args: ["i32"], returns: "void" } } : {}),
      open: { args: ["ptr", "i32"], returns: "i32" },
      read: { args: ["i32", "ptr", "usize"], returns: "i32" },
      write: { args: ["i32", "ptr", "usize"], returns: "i32" },
      fstat: { args: ["i32", "ptr"], returns: "i32" },
    }).symbols; // dlopen returns an error, which has no symbols, rather than throw it
  } catch {
    return undefined;
  }
}

/** Opened by path, a descriptor is close-on-exec: the tool's own children do not get it. */
function open(path, flags) {
  const O_CLOEXEC = 0o2000000;
  const fd = libc ? libc.open(encode(`${path}\0`), flags | O_CLOEXEC) : -1;
  return fd >= 0 ? fd : nodeFs().openSync(path, flags);
}

function read(fd, bytes) {
  const count = libc ? libc.read(fd, bytes, bytes.length) : -1;
  return count >= 0 ? count : nodeFs().readSync(fd, bytes);
}

// Deno's writeSync writes until all is written, and does not tell how much that was when it fails on the way. What fits
// into PIPE_BUF is written as a whole or not at all.
const MOST_AT_ONCE = versions.deno ? 4096 : 1 << 30;

function writeAll(fd, bytes) {
  for (let sent = 0; sent < bytes.length; ) {
    const rest = bytes.subarray(sent, sent + MOST_AT_ONCE);
    const count = libc ? libc.write(fd, rest, rest.length) : -1;
    try {
      sent += count >= 0 ? count : nodeFs().writeSync(fd, rest);
    } catch (error) {
      if (error.code !== "EAGAIN" && error.code !== "EINTR") throw error;
      // A child of the tool has made the pipe, which they share, non-blocking.
      wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
    }
  }
}

/** Device and inode. After a tool closed what is not its own, its next file may have our descriptor's number. */
function identity(fd) {
  const stat = new Int32Array(64);
  if (libc && libc.fstat(fd, stat) === 0) return `${stat[0]} ${stat[1]} ${stat[2]} ${stat[3]}`;
  const { dev, ino } = nodeFs().fstatSync(fd);
  return `${dev} ${ino}`;
}

// ------------------------------------------------------------------------------------------------------- the channel

const O_RDONLY = 0;
const O_WRONLY = 1;
const folder = process.env.RUN_TOOL_CHANNEL;
delete process.env.RUN_TOOL_CHANNEL;
const callFd = open(`${folder}/call`, O_RDONLY);
const replyFd = open(`${folder}/reply`, O_WRONLY);
const replyIdentity = identity(replyFd);

function send(json) {
  // Half of a surrogate pair is the only thing stringify writes as \ud…, and strict parsers refuse such a line.
  if (json.includes("\\ud")) {
    json = replace(json, /\\\\|\\ud[0-9a-f]{3}/g, (match) => (match === "\\\\" ? match : "\\ufffd"));
  }
  if (identity(replyFd) !== replyIdentity) throw new Error("the reply channel was closed");
  writeAll(replyFd, encode(`${json}\n`));
}

/** The next line, read blockingly: that is faster, and node's process.exit hangs on a pending asynchronous read. */
function readLine(fd) {
  let bytes = new Uint8Array(65536);
  for (let length = 0; ; ) {
    if (length === bytes.length) {
      const larger = new Uint8Array(2 * length);
      larger.set(bytes);
      bytes = larger;
    }
    const count = read(fd, bytes.subarray(length));
    if (count === 0) throw new Error("the call channel was closed");
    const end = bytes.subarray(length, length + count).indexOf(10);
    if (end >= 0) return decode(bytes.subarray(0, length + end));
    length += count;
  }
}

// ------------------------------------------------------------------------------------------------- stdout and stderr

// process.exit drops what a runtime still buffers for a pipe, so these streams write synchronously: nothing is lost
// even when the tool itself calls process.exit. In Bun they also keep their order with console.log, which is native
// and synchronous. Assigning is free; to describe or redefine Bun's property first builds its stream, in 15 ms.
const streams = [];
const writers = [];

function replaceStream(name, fd) {
  const value = blockingStream(fd);
  if (Bun) process[name] = value;
  else Object.defineProperty(process, name, { value, writable: true, enumerable: true, configurable: true });
}

/** An object that becomes a Writable when it is first used: node:stream takes Bun 8 ms to load. */
function blockingStream(fd) {
  const write = (chunk, _encoding, done) => {
    try {
      writeAll(fd, chunk);
    } catch (error) {
      return done(error);
    }
    done();
  };
  const become = () => {
    if (streams.includes(stream)) return stream;
    streams.push(stream);
    const { Writable } = builtin("node:stream");
    Object.setPrototypeOf(stream, Writable.prototype);
    apply(Writable, stream, [{ write }]);
    return stream;
  };
  const unused = new Proxy({}, {
    get: (_, key) => become()[key],
    set: (_, key, value) => Reflect.set(become(), key, value),
    has: (_, key) => key in become(),
    getPrototypeOf: () => Object.getPrototypeOf(become()),
  });
  const stream = Object.create(unused, { fd: { value: fd, enumerable: true }, _isStdio: { value: true } });
  return stream;
}

replaceStream("stdout", 1);
replaceStream("stderr", 2);

if (Bun) {
  const { writer } = Blob.prototype;
  Blob.prototype.writer = function (...options) {
    const sink = apply(writer, this, options);
    if (this === Bun.stdout || this === Bun.stderr) writers.push(sink);
    return sink;
  };
}

/** Lets out what is still held back: by a corked stream, by a writer of Bun. Returns a promise if that takes time. */
function drain() {
  for (const stream of streams) {
    if (stream.writableLength > 0) stream.end();
  }
  return writers.length > 0 ? endWriters() : undefined;
}

function endWriters() {
  const ended = writers.map(async (writer) => writer.end());
  return race([allSettled(ended), new Promise((resolve) => setTimeout(resolve, 2000))]);
}

// --------------------------------------------------------------------------------------------------- what was thrown

const LONGEST_TEXT = 65536;
const DEEPEST = 6;
const MOST_VALUES = 2000;

/** { name, message, stack, data } of anything that can be thrown. Reading a hostile value can throw at every step. */
function describe(thrown, walk = { values: 0, path: [] }) {
  if (!attempt(() => thrown instanceof Error || (typeof thrown === "object" && typeof thrown.message === "string"))) {
    const value = portable(thrown, walk);
    const shown = attempt(() => (typeof thrown === "object" ? stringify(value) : String(thrown)));
    return { name: "NonError", message: text(shown) ?? "", data: typeof thrown === "object" ? value : undefined };
  }
  return {
    name: text(attempt(() => thrown.name)) || text(attempt(() => thrown.constructor.name)) || "Error",
    message: text(attempt(() => String(thrown.message))) ?? "",
    stack: text(attempt(() => stackOf(thrown))),
    data: within(thrown, walk, () => {
      const data = members(thrown, walk, (key) => !["name", "message", "stack", "cause"].includes(key));
      const cause = attempt(() => thrown.cause);
      if (cause !== undefined) data.cause = describe(cause, walk);
      const errors = attempt(() => thrown.errors);
      if (Array.isArray(errors)) data.errors = portable(errors, walk);
      return Object.keys(data).length > 0 ? data : undefined;
    }),
  };
}

/** The stack without this file's own frames; for what Bun could not compile, where that is. */
function stackOf(error) {
  const { stack } = error;
  if (typeof stack === "string" && stack !== "") {
    const self = import.meta.path ?? import.meta.url;
    return stack.split("\n").filter((line) => !(/^\s+at /.test(line) && line.includes(self))).join("\n");
  }
  const places = (Array.isArray(error.errors) ? error.errors : [error])
    .filter(({ position }) => position)
    .map(({ message, position: { file, line, column } }) => `    at ${file}:${line}:${column}: ${message}`);
  return places.length > 0 ? [`${error.name}: ${error.message}`, ...places].join("\n") : undefined;
}

/** The part of a value that JSON can carry, within bounds: errors drag requests, sockets, whole responses along. */
function portable(value, walk) {
  walk.values += 1;
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "string") return text(value);
  if (typeof value === "number") return Number.isFinite(value) ? value : String(value);
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object") return undefined;
  if (attempt(() => value instanceof Error)) return describe(value, walk);
  return within(value, walk, () => {
    if (Array.isArray(value)) return value.slice(0, 100).map((item) => portable(item, walk) ?? null);
    const tag = tagOf(value);
    if (ArrayBuffer.isView(value) || /Map|Set|Buffer|Promise/.test(tag)) return tag;
    return typeof value.toJSON === "function" ? portable(value.toJSON(), walk) : members(value, walk, () => true);
  });
}

function members(object, walk, wanted) {
  const data = { __proto__: null };
  for (const key of attempt(() => Object.keys(object)) ?? []) {
    if (walk.values > MOST_VALUES) break;
    const value = wanted(key) ? attempt(() => portable(object[key], walk), "[unreadable]") : undefined;
    if (value !== undefined) data[key] = value;
  }
  return data;
}

function within(object, walk, visit) {
  if (walk.path.includes(object)) return "[circular]";
  if (walk.path.length >= DEEPEST || walk.values > MOST_VALUES) return "[not shown]";
  walk.path.push(object);
  const value = attempt(visit, "[unreadable]");
  walk.path.pop();
  return value;
}

function text(value) {
  if (typeof value !== "string" || value.length <= LONGEST_TEXT) return typeof value === "string" ? value : undefined;
  return `${value.slice(0, LONGEST_TEXT)}… (${value.length - LONGEST_TEXT} characters more)`;
}

function attempt(action, otherwise) {
  try {
    return action();
  } catch {
    return otherwise;
  }
}

// ---------------------------------------------------------------------------------------------------------- the tool

/** The function a tool file exports, and the object it is to be called on. */
function pick(module, name) {
  const run = module[name ?? "default"];
  return typeof run === "function" ? { run, owner: ownerOf(run, module.default, name) } : search(module, name);
}

function ownerOf(run, inner, key) {
  return inner?.[key] === run ? inner : undefined;
}

/**
 * What CommonJS exports, an object or a function with members, is the default export here, and not every runtime shows
 * its members as exports too. Compiled TypeScript has its own default among them.
 */
function search(module, name) {
  const inner = module.default;
  const { "module.exports": _, __esModule: __, ...exported } = Object.assign({}, module, inner);
  for (const key of DECLARED) delete exported[key];
  if (exported.default === inner && typeof inner === "object") delete exported.default;
  const functions = Object.keys(exported).filter((key) => typeof exported[key] === "function");
  const only = new Set(functions.map((key) => exported[key])).size === 1 ? functions[0] : "default";
  const key = name ?? (functions.includes("default") ? "default" : only);
  if (functions.includes(key)) return { run: exported[key], owner: ownerOf(exported[key], inner, key) };

  let problem = "it has to export one function, as default or by the name the tool declares";
  if (name !== undefined) problem = `it has no export ${name}`;
  if (Object.hasOwn(exported, name)) problem = `its export ${name} is not a function`;
  const list = Object.keys(exported).map((key) => `${key} (${typeof exported[key]})`).join(", ") || "nothing";
  throw loadError(`${problem}; it exports ${list}`);
}

function loadError(problem) {
  const error = new Error(`${process.argv[2]} is not usable as a tool: ${problem}`);
  error.name = "LoadError";
  return error;
}

const DECLARED = ["description", "inputSchema", "outputSchema"];

/** What the tool declares: its file as exports, or the function itself as properties, which count more. */
function declared(module, { run, owner }) {
  const value = (key) => run[key] ?? module[key] ?? owner?.[key] ?? undefined;
  const schema = (key) => {
    const found = value(key);
    const isSchema = found === undefined || typeof found === "boolean" || tagOf(found) === "[object Object]";
    if (!isSchema) throw loadError(`its ${key} is neither an object nor a boolean`);
    return found;
  };
  const description = value("description");
  const schemas = { input_schema: schema("inputSchema"), output_schema: schema("outputSchema") };
  return { description: typeof description === "string" ? description : undefined, schemas };
}

function isGenerator(value) {
  const tag = typeof value === "object" && value !== null && typeof value.next === "function" ? tagOf(value) : "";
  return tag === "[object Generator]" || tag === "[object AsyncGenerator]";
}

/** Runs a generator to its end: what it yields is progress, what it returns is the value. */
async function exhaust(generator) {
  for (let since = now(); ; ) {
    const { done, value } = await generator.next();
    if (done) return value;
    attempt(() => progress(value));
    if (now() - since > 20) {
      await turn(); // a generator that never waits would not let the signal of a cancel through
      since = now();
    }
  }
}

/** progress(0.4, "half done"), progress("half done"), progress({ fraction, message }): anything else is data. */
function progress(value, message) {
  const report = { type: "progress", message };
  if (typeof value === "number") {
    report.fraction = value;
  } else if (typeof value === "string") {
    report.message = value;
  } else if (typeof value?.fraction === "number" || typeof value?.message === "string") {
    const { fraction, message, data, ...rest } = value;
    Object.assign(report, { fraction, message, data: data ?? (Object.keys(rest).length > 0 ? rest : undefined) });
  } else {
    report.data = value;
  }
  if (!Number.isFinite(report.fraction)) delete report.fraction;
  if (report.message !== undefined) report.message = String(report.message);
  tell(report);
}

/** log("warn", "message", data), log("message", data). */
function log(...args) {
  const level = args.length > 1 && ["debug", "info", "warn", "error"].includes(args[0]) ? args.shift() : "info";
  const [message, data = message instanceof Error ? message : undefined] = args;
  tell({ type: "log", level, message: typeof message === "string" ? message : describe(message).message, data });
}

/** What JSON cannot carry is left out. */
function tell(message) {
  if (stage !== "run") return;
  const errors = (_key, value) => (value instanceof Error ? describe(value) : value);
  send(attempt(() => stringify(message, errors)) ?? stringify(portable(message, { values: 0, path: [] })));
}

// ---------------------------------------------------------------------------------------------------------- the call

// "load", "run", "returned" (there is a value; only a rejection that the tool left behind can still spoil it), "ended"
// (the outcome is decided), "sent" (so is the last line).
let stage = "load";

process.on("uncaughtException", (thrown) => (stage === "returned" ? note(thrown) : stray(thrown)));
process.on("unhandledRejection", (thrown) => stray(thrown));
process.on("beforeExit", () => {
  const waiting = stage === "load" || stage === "run";
  if (waiting) stray(new Error("nothing is left that could settle the promise the tool waits for"));
});

/** What nobody caught ends the call; once that has ended, it is only worth a note. */
function stray(thrown) {
  if (stage === "ended" || stage === "sent") note(thrown);
  else fail(stage === "load" ? "load" : "run", thrown);
}

function note(thrown) {
  if (stage === "sent") return;
  const { name, message, ...data } = describe(thrown);
  attempt(() => send(stringify({ type: "log", level: "error", message: `after the end: ${name}: ${message}`, data })));
}

function fail(phase, thrown) {
  const report = attempt(() => stringify({ type: "error", phase, ...describe(thrown) }));
  end(report ?? stringify({ type: "error", phase, name: "NonError", message: "a value that cannot be described" }), 1);
}

function end(line, code) {
  if (stage === "ended" || stage === "sent") return;
  stage = "ended";
  const leave = () => {
    stage = "sent";
    try {
      send(line);
    } catch {
      code = 1; // the tool closed the channel: without a last line, the exit code has to say it
    }
    try {
      if (libc?._exit) apply(on, process, ["exit", () => libc._exit(code)]); // after the tool's own handlers
      apply(exit, process, [code]);
    } finally {
      apply(reallyExit, process, [code]); // an exit handler of the tool threw
    }
  };
  const draining = streams.length + writers.length > 0 ? attempt(drain) : undefined;
  if (draining) draining.then(leave, leave);
  else leave();
}

/** Lets the event loop turn once: that is when a runtime reports rejections that nobody handles. */
function turn() {
  return nap ? nap(0) : new Promise((resolve) => setImmediate(resolve));
}

async function main(file, name) {
  const runtime = Bun ? "bun" : versions.deno ? "deno" : "node";
  send(stringify({ type: "hello", protocol: 1, runtime, version: versions[runtime] }));
  let tool, description, schemas, ready;
  try {
    const url = Bun ? Bun.pathToFileURL(file).href : builtin("node:url").pathToFileURL(file).href;
    const module = await import(url);
    tool = pick(module, name);
    ({ description, schemas } = declared(module, tool));
    ready = stringify({ type: "ready", ...schemas });
    await turn();
  } catch (thrown) {
    return fail("load", thrown);
  }
  if (stage !== "load") return;
  send(ready);

  const { type, id, input, config } = parse(readLine(callFd));
  if (type === "describe") return end(stringify({ type: "result", value: { description, ...schemas } }), 0);
  const controller = new AbortController();
  const { signal } = controller;
  process.on("SIGTERM", () => controller.abort());
  const context = {
    id,
    config,
    workdir: attempt(() => process.cwd()),
    signal,
    get cancelled() {
      return signal.aborted;
    },
    progress: (...values) => void attempt(() => progress(...values)),
    log: (...values) => void attempt(() => log(...values)),
  };

  stage = "run";
  let value;
  try {
    value = await apply(tool.run, tool.owner, [input, context]);
    if (isGenerator(value)) value = await exhaust(value);
  } catch (thrown) {
    return fail("run", thrown);
  }
  if (stage !== "run") return;
  stage = "returned";
  let json;
  try {
    json = stringify(value) ?? "null";
  } catch (thrown) {
    return fail("result", thrown);
  }
  await turn();
  end(`{"type":"result","value":${json}}`, 0);
}

// When its entry module is evaluated, Bun does 1 ms of work that a short call can do without. But only after that does
// it notice that nothing is left to wait for: so the module is held open only for as long as the call gets on.
const answered = main(process.argv[2], process.argv[3]);
for (let seen; nap && seen !== stage; ) {
  seen = stage;
  await race([answered, nap(100)]);
}
