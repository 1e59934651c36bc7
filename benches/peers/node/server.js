// A server of socket.io with its Redis adapter: every socket joins one room.
// One JSON object per line: commands on standard input, answers on standard output.

import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const ROOM = "bench";
// Longer than any load, so that no pings are sent.
const PING = 600_000;

const now = () => Number(process.hrtime.bigint());

let io;

const commands = {
  async connect({ redis }) {
    const publishing = createClient({ url: redis });
    const subscribing = publishing.duplicate();
    await Promise.all([publishing.connect(), subscribing.connect()]);
    const http = createServer();
    io = new Server(http, {
      adapter: createAdapter(publishing, subscribing),
      pingInterval: PING,
      pingTimeout: PING,
      transports: ["websocket"],
    });
    io.on("connection", (socket) => socket.join(ROOM));
    await new Promise((resolve) => http.listen(0, "127.0.0.1", 4096, resolve));
    return { port: http.address().port };
  },

  // A call returns before it has written anything, so each call lets the event loop run.
  async group_send({ calls, size }) {
    const start = now();
    const body = "x".repeat(size);
    for (let call = 0; call < calls; call++) {
      io.to(ROOM).emit("message", body);
      await new Promise(setImmediate);
    }
    return { start, end: now() };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = await commands[command.do](command);
  } catch (error) {
    answer = { error: String(error) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
process.exit(0);
