"""Opens many WebSockets in one process, and exits when each has received one text.

The arguments are the port of the server, the room, and the number of sockets. Prints a line for each socket that is open
and for each text. Answers pings. Any other frame and the end of a socket are errors.
"""

import asyncio
import resource
import sys

# Handshakes at the same time; the backlog of a listening socket is finite.
OPENING = 64
TEXT, PING, PONG = 0x81, 0x89, 0x8A
MASKED = 0x80


class Socket(asyncio.Protocol):
    def __init__(self, request):
        self.request = request
        self.received = b""
        loop = asyncio.get_running_loop()
        self.open, self.text = loop.create_future(), loop.create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.received += data
        if not self.open.done():
            head, end, rest = self.received.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self.received = rest
            self.open.set_result(None)
        while len(self.received) >= 2 and len(self.received) >= 2 + self.received[1]:
            kind, length = self.received[:2]
            payload, self.received = self.received[2 : 2 + length], self.received[2 + length :]
            self.frame(kind, payload)

    def frame(self, kind, payload):
        if kind == PING:
            # A mask of zeros leaves the payload as it is.
            self.transport.write(bytes([PONG, MASKED | len(payload), 0, 0, 0, 0]) + payload)
        else:
            assert kind == TEXT and not self.text.done(), (kind, payload)
            self.text.set_result(payload.decode())

    def connection_lost(self, reason):
        if not self.text.done():
            raise ConnectionError(f"a socket ended: {reason}")


async def main(port, room, count):
    asyncio.get_running_loop().set_exception_handler(fail)
    request = (
        f"GET /{room} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    sockets, left = [], iter(range(count))

    async def open_some():
        loop = asyncio.get_running_loop()
        for _ in left:
            _, socket = await loop.create_connection(lambda: Socket(request), "127.0.0.1", port)
            await socket.open
            sockets.append(socket)
            print(f"open {len(sockets)}", flush=True)

    await asyncio.gather(*(open_some() for _ in range(OPENING)))
    for socket in sockets:
        print(f"received {await socket.text}", flush=True)


def fail(loop, context):
    loop.default_exception_handler(context)
    # Otherwise the program would wait for the other sockets.
    sys.exit(1)


_, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
