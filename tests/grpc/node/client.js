// A client of amino.v1 in Node.js, made from the .proto files alone: creates a microservice, calls it, reads typed
// values and errors, deletes it.
//
// node client.js ADDRESS PROTO_FOLDER CLASS_PATH [NAME]
// Prints one JSON document {"checks": [names of what was checked]}; a failed check ends it with exit code 1.
"use strict";

const assert = require("node:assert/strict");
const crypto = require("node:crypto");
const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protoFolder, classPath, name = "from-node"] = process.argv.slice(2);
const options = { keepCase: true, longs: String, enums: String, oneofs: true, includeDirs: [protoFolder] };
const files = ["invoke.proto", "registry.proto", "error.proto"].map((file) => path.join("amino_v1", file));
const amino = grpc.loadPackageDefinition(loader.loadSync(files, options)).amino.v1;

const credentials = grpc.credentials.createInsecure();
const registry = new amino.Registry(address, credentials);
const invoke = new amino.Invoke(address, credentials);

function ask(client, method, request, { seconds = 20, metadata = new grpc.Metadata() } = {}) {
  const deadline = new Date(Date.now() + seconds * 1000);
  return new Promise((resolve, reject) =>
    client[method](request, metadata, { deadline }, (error, reply) => (error ? reject(error) : resolve(reply))),
  );
}

const int = (number) => ({ int_value: String(number) });
const string = (text) => ({ string_value: text });
const list = (...items) => ({ list_value: { items } });
const map = (...entries) => ({ map_value: { entries: entries.map(([key, value]) => ({ key, value })) } });

async function call(method, args = [], more = {}) {
  const reply = await ask(invoke, "Call", { name, method, args, ...more });
  assert.equal(reply.outcome, "value", `${method} raised ${JSON.stringify(reply.application_error)}`);
  return reply.value;
}

// What a program wants to know of an error: status, code, details.
async function refused(promise) {
  const error = await promise.then(
    () => assert.fail("it was not refused"),
    (problem) => problem,
  );
  const [code] = error.metadata.get("amino-error-code");
  const [bytes] = error.metadata.get("grpc-status-details-bin");
  const status = amino.Status.deserialize(bytes); // grpc-status-details-bin is a google.rpc.Status
  const described = amino.Error.deserialize(status.details[0].value);
  assert.equal(described.code, code);
  assert.equal(status.code, error.code);
  return { status: error.code, code, message: error.details, details: described.details };
}

const checks = [];
async function check(title, body) {
  try {
    await body();
  } catch (error) {
    error.message = `${title}: ${error.message}`;
    throw error;
  }
  checks.push(title);
}

async function main() {
  const id = crypto.randomBytes(12).toString("hex");
  const spec = {
    class_path: classPath,
    name,
    labels: { tier: "test" },
    dms: [{ name: "AtLeastOnceRPC", options: { timeout_s: { float_value: 20 } } }],
  };
  const create = { microservice: id, spec, args: [int(40)], kwargs: { label: string("node") } };

  await check("create", async () => {
    const location = await ask(registry, "Create", create);
    assert.equal(location.microservice, id);
    assert.equal(location.created, true);
    assert.ok(location.groups["/"].replicas.length >= 1);
    assert.ok(location.methods.some((method) => method.name === "get" && method.readonly));
  });
  await check("create again with the same id finds it", async () => {
    assert.equal((await ask(registry, "Create", create)).microservice, id);
  });
  await check("call by name and by id, keyword arguments", async () => {
    assert.deepEqual(await call("add", [int(2)]), { int_value: "42", kind: "int_value" });
    const reply = await ask(invoke, "Call", { microservice: id, method: "add", kwargs: { n: int(3) } });
    assert.equal(reply.value.int_value, "45");
    assert.equal((await call("name_tag")).string_value, "node");
  });
  await check("int64 round-trips", async () => {
    for (const number of ["9223372036854775807", "-9223372036854775808", "9007199254740993", "0"]) {
      assert.equal((await call("echo", [int(number)])).int_value, number);
    }
  });
  await check("bytes round-trip", async () => {
    const bytes = Buffer.from([...Array(256).keys()]);
    assert.ok((await call("echo", [{ bytes_value: bytes }])).bytes_value.equals(bytes));
  });
  await check("null, bool, float, string and timestamp round-trip", async () => {
    assert.equal((await call("echo", [{ null_value: "NULL_VALUE" }])).kind, "null_value");
    assert.equal((await call("echo", [{ bool_value: true }])).bool_value, true);
    assert.equal((await call("echo", [{ float_value: 0.1 }])).float_value, 0.1);
    assert.ok(Number.isNaN((await call("echo", [{ float_value: NaN }])).float_value));
    assert.equal((await call("echo", [string("Grüße, 世界 🎈")])).string_value, "Grüße, 世界 🎈");
    const now = { seconds: "1770091506", nanos: 789000000 };
    assert.deepEqual((await call("echo", [{ timestamp_value: now }])).timestamp_value, now);
    assert.equal((await call("moment")).timestamp_value.nanos, 789000000);
  });
  await check("lists and maps round-trip, integer keys too", async () => {
    const sent = map([int(7), list(int(1), string("two"))], [string("deep"), map([string("x"), int(-1)])]);
    const back = await call("echo", [sent]);
    const [first, second] = back.map_value.entries;
    assert.equal(first.key.int_value, "7");
    assert.equal(first.value.list_value.items[1].string_value, "two");
    assert.equal(second.value.map_value.entries[0].value.int_value, "-1");
  });
  await check("refs round-trip, and can be stored", async () => {
    await call("keep", [{ ref_value: { microservice: id, name, class_path: classPath } }]);
    const kept = (await call("kept_value")).ref_value;
    assert.equal(kept.microservice, id);
    const reply = await ask(invoke, "Call", { microservice: kept.microservice, method: "get" });
    assert.equal(reply.value.int_value, "45");
  });
  await check("a repeated request id runs once", async () => {
    const request_id = { client: `node-${id}`, sequence: "1", floor: "1" };
    assert.equal((await call("add", [int(5)], { request_id })).int_value, "50");
    const again = { ...request_id, attempt: 1, age_s: 0.1 };
    assert.equal((await call("add", [int(5)], { request_id: again })).int_value, "50");
    assert.equal((await call("get")).int_value, "50");
  });
  await check("what a method raises is told by type and message", async () => {
    const reply = await ask(invoke, "Call", { name, method: "fail", args: [string("no such thing")] });
    assert.equal(reply.outcome, "application_error");
    assert.equal(reply.application_error.type_name, "builtins.LookupError");
    assert.equal(reply.application_error.message, "no such thing");
    assert.match(reply.application_error.traceback, /LookupError/);
    const own = await ask(invoke, "Call", { name, method: "fail_as_amino" });
    assert.equal(own.application_error.type_name, "amino.errors.NotFound");
  });
  await check("typed errors", async () => {
    const missing = await refused(ask(invoke, "Call", { name: "nobody-of-this-name", method: "get" }));
    assert.deepEqual([missing.status, missing.code], [grpc.status.NOT_FOUND, "not-found"]);
    const method = await refused(ask(invoke, "Call", { name, method: "no_such_method" }));
    assert.deepEqual([method.status, method.code], [grpc.status.NOT_FOUND, "not-found"]);
    const taken = await refused(ask(registry, "Create", { ...create, microservice: "f".repeat(24) }));
    assert.deepEqual([taken.status, taken.code], [grpc.status.ALREADY_EXISTS, "already-exists"]);
    const invalid = await refused(ask(invoke, "Call", { name, method: "echo", args: [{ int: 5 }] }));
    assert.deepEqual([invalid.status, invalid.code], [grpc.status.INVALID_ARGUMENT, "invalid"]);
    assert.match(invalid.message, /args\[0\]/);
    const result = await refused(ask(invoke, "Call", { name, method: "unsendable" }));
    assert.equal(result.code, "not-encodable");
    assert.equal(result.details.executed.bool_value, true);
    assert.match(result.message, /result\['inner'\]\[1\]/);
  });
  await check("find and describe", async () => {
    const found = await ask(registry, "Find", { name_prefix: name });
    assert.deepEqual(found.rows.map((row) => row.id), [id]);
    assert.equal((await ask(registry, "Describe", { name })).spec.class_path, classPath);
    assert.ok((await ask(registry, "Members", {})).servers.length >= 1);
  });
  await check("delete", async () => {
    await ask(registry, "Delete", { name });
    assert.equal((await refused(ask(invoke, "Call", { name, method: "get" }))).code, "not-found");
  });
  console.log(JSON.stringify({ checks }));
}

main()
  .catch((error) => {
    console.error(error);
    process.exitCode = 1;
  })
  .finally(() => [registry, invoke].forEach((client) => client.close()));
