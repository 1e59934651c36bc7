"""The loads on WebSockets, and their ratios: the cost of an idle socket, and broadcasts to a room."""

import time

from .children import Crew, Failed, await_count
from .load import Load
from .paths import BINARIES
from .peers import AXUM, HUB, SOCKET_IO, SOCKETIOXIDE
from .ratios import Ratio
from .redis_server import RedisServer
from .sizes import INSTANCES, SMALL, SOCKETS

# The peers whose clients use plain WebSockets.
PLAIN = {HUB, AXUM}


class Room:
    """Servers with all sockets in one room. One client process has all clients and counts their messages."""

    def __init__(self, crew, peer, servers, connect):
        self.peer = peer
        self.servers = [
            crew.start(f"{slug(peer.name)}-{number}", [str(word) for word in peer.arguments], **connect)
            for number in range(servers)
        ]
        self.empty = self.memory() if peer.name in PLAIN else None
        self.client = crew.start(f"sockets-of-{slug(peer.name)}", [str(BINARIES / "sockets")])
        ports = [server.port for server in self.servers]
        self.client.ask("open", ports=ports, sockets=SOCKETS, plain=peer.name in PLAIN)
        # Connected sockets may not have joined the room yet.
        time.sleep(1)

    def memory(self):
        return self.servers[0].ask("memory")

    def memory_of_one(self):
        used = self.memory()
        return {figure: (used[figure] - self.empty[figure]) / SOCKETS for figure in ["heap", "rss"]}

    def broadcast(self, calls):
        wanted = calls * SOCKETS
        answer = self.servers[0].ask("group_send", calls=calls, size=SMALL)
        came = await_count([self.client], wanted)
        last = self.client.ask("collect")["last"]
        if came != wanted:
            raise Failed(f"{self.peer.name}: {came} of {wanted} deliveries arrived")
        return {"rate": came / (last - answer["start"]) * 1e9}


def slug(name):
    return "".join(char if char.isalnum() else "-" for char in name)


def idle(the):
    """Each round starts a new server, because a process does not always return its memory to the system."""

    def contestant(peer):
        def measure():
            with Crew() as crew:
                return Room(crew, peer, 1, {"redis": None}).memory_of_one()

        return measure

    return {name: contestant(the.peers[name]) for name in [HUB, AXUM]}


def one_process(the):
    return contestants(the, the.sizes.broadcasts, 1, lambda: None)


def two_processes(the):
    return contestants(the, the.sizes.rooms, INSTANCES, lambda: the.stack.enter_context(RedisServer()).url)


def contestants(the, counts, servers, redis):
    """The sockets stay open over all rounds."""

    def contestant(name, calls):
        room = Room(the.stack.enter_context(Crew()), the.peers[name], servers, {"redis": redis()})
        # The first message fills caches before the measurement.
        room.broadcast(1)
        return lambda: room.broadcast(calls)

    made = {}
    for name, calls in counts.items():
        if name in the.peers:
            try:
                made[name] = contestant(name, calls)
            except Failed as reason:
                the.failures[f"rooms: {name}"] = str(reason)
    return made


LOADS = [
    Load("idle", f"an idle WebSocket, of {SOCKETS:,}", idle),
    Load("broadcast", f"broadcast to {SOCKETS:,} WebSockets of one process", one_process),
    Load("room", f"broadcast to {SOCKETS:,} WebSockets of {INSTANCES} processes", two_processes),
]

RATIOS = [
    Ratio("conn_memory_vs_axum", "idle", HUB, AXUM, "rss", at_most=1.25),
    Ratio("conn_heap_vs_axum", "idle", HUB, AXUM, "heap", at_most=1.25),
    Ratio("broadcast_vs_axum", "broadcast", HUB, AXUM, at_least=0.8, label="10,000 WebSockets, over axum by hand"),
    Ratio("room_vs_socketioxide", "room", HUB, SOCKETIOXIDE, at_least=1, label="room of 10,000, over socketioxide"),
    Ratio("room_vs_socketio", "room", HUB, SOCKET_IO, at_least=1, label="room of 10,000, over socket.io"),
]
