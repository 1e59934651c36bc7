"""The unit costs of scripts/scale-model: what a message, a group message, a socket or a connection costs a server."""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from .channels import PROCESS
from .children import Crew, Failed, ask_all, await_count, processor_seconds
from .load import Load
from .paths import BINARIES
from .peers import HUB, OURS, binary
from .ratios import medians
from .redis_cluster import RedisCluster
from .redis_server import Client
from .server import clients
from .sizes import CLIENTS, SENDERS, SMALL

REDIS, GROUPS, PUBSUB, CONNECTIONS = "Redis: messages", "Redis: groups", "Redis: pub/sub groups", "connections"
HUBS, INTERFACE = "Hub", "interface server"

# Processes with a member of a group. The difference is the cost of the others.
FEW, MORE = 1, 5
# The pause between messages that are sent alone, and between group messages.
GAP_US = 2000
# Sockets of two hubs: one each, and many. The pause between messages is enough to write all frames. Otherwise a hub would
# write several frames at once.
QUIET, CROWDED = (2, GAP_US), (5000, 60_000)
ECHO_SOCKETS, IDLE_SOCKETS = 500, 5000
# Connections, members and subscriptions whose memory is measured in Redis.
MANY = 10_000
RAW_CONNECTIONS = 500


@dataclass(frozen=True)
class Unit:
    """A unit cost: a figure of a contestant in a load, or a ratio."""

    key: str
    load: str
    contestant: str
    figure: str
    unit: str
    text: str

    def value(self, measured, spreads):
        """Returns the median over the rounds."""
        if self.load is None:
            return spreads[self.key] and spreads[self.key]["median"]
        return medians(measured, self.load).get(self.contestant, {}).get(self.figure)


UNITS = [
    Unit("redis_message_us", "costs", REDIS, "alone_us", "us", "Redis, for a message that is sent and read alone"),
    Unit("redis_message_batched_us", "costs", REDIS, "batched_us", "us", "Redis, for a message in batches"),
    Unit("redis_group_us", "costs", GROUPS, "call_us", "us", "Redis, for a group message without its entries"),
    Unit("redis_route_us", "costs", GROUPS, "route_us", "us", "Redis, for each process with members, written and read"),
    Unit("redis_publish_us", "costs", PUBSUB, "call_us", "us", "Redis, for a published group message without its subscribers"),
    Unit("redis_subscriber_us", "costs", PUBSUB, "route_us", "us", "Redis, for each process that is subscribed"),
    Unit("redis_waiting_bytes", "stored", OURS, "bytes", "B", "Redis, for a waiting message of 100 B"),
    Unit("redis_member_bytes", "costs", GROUPS, "member_bytes", "B", "Redis, for each member of a group"),
    Unit("redis_connection_bytes", "costs", CONNECTIONS, "connection_bytes", "B", "Redis, for a connection"),
    Unit("redis_subscription_bytes", "costs", CONNECTIONS, "subscription_bytes", "B", "Redis, for a subscription"),
    Unit("connections_per_master", "costs", CONNECTIONS, "each", "", "connections of a process to each master"),
    Unit("connections_of_readers", "costs", CONNECTIONS, "more", "", "connections of a process for its own channel, to one master"),
    Unit("cluster_push_cost", None, "", "", "", "Redis, for a message on several masters over one on one server"),
    Unit("process_route_us", "costs", GROUPS, "sender_us", "us", "a process, to send a group message to each process with members"),
    Unit("hub_echo_us", "costs", HUBS, "echo_us", "us", "Hub, for a frame of a client and its answer"),
    Unit("hub_send_us", "costs", HUBS, "send_us", "us", "Hub, to send a group message"),
    Unit("hub_group_us", "costs", HUBS, "group_us", "us", "Hub, to receive a group message"),
    Unit("hub_frame_us", "costs", HUBS, "frame_us", "us", "Hub, for a frame to a client"),
    Unit("hub_socket_bytes", "idle", HUB, "rss", "B", "Hub, for an idle socket"),
    Unit("server_echo_us", "costs", INTERFACE, "server_us", "us", "interface server, for a frame of a client and its answer"),
    Unit("worker_echo_us", "costs", INTERFACE, "worker_us", "us", "worker, for a frame of a client and its answer"),
    Unit("redis_echo_us", "costs", INTERFACE, "redis_us", "us", "Redis, for a frame of a client and its answer"),
    Unit("server_socket_bytes", "costs", INTERFACE, "socket_bytes", "B", "interface server, for an idle socket"),
]


def costs(the):
    return {
        REDIS: lambda: messages(the.server, the.peers[OURS], the.sizes),
        GROUPS: lambda: groups(the.server, the.peers[OURS], the.sizes.cost_calls),
        PUBSUB: lambda: groups(the.server, binary(OURS, "layer", format="pubsub"), the.sizes.cost_calls),
        CONNECTIONS: lambda: connections(the.server, the.peers[OURS]),
        HUBS: lambda: hubs(the.server, the.peers[HUB], the.sizes),
        INTERFACE: lambda: interface(the.server, the.sizes),
    }


LOADS = [Load("costs", "unit costs", costs, rounds=3)]
RATIOS = []


def messages(server, peer, sizes):
    """Messages to the channel of a process that reads them: each alone, and from many senders at once."""
    server.clear()
    with Crew() as crew:
        receiver, sender = (peer.start(crew, server, role) for role in ("receiver", "sender"))
        targets = receiver.ask("serve", process=PROCESS, clients=CLIENTS, mark="none")["targets"]

        def cost(count, do, **arguments):
            before = server.processor_micros()
            sender.ask(do, count=count, size=SMALL, **arguments)
            if await_count([receiver], count) != count:
                raise Failed(f"{peer.name}: not all of {count} messages arrived")
            receiver.ask("collect")
            return (server.processor_micros() - before) / count

        alone = cost(sizes.cost_calls, "send_paced", channel=targets[0], gap_us=GAP_US)
        batched = cost(sizes.cost_messages, "send", channels=targets, senders=SENDERS, mark="none")
    server.clear()
    return {"alone_us": alone, "batched_us": batched}


def groups(server, peer, calls):
    """Group messages to one process with a member, and to several. The receivers are idle when a message comes."""
    server.clear()
    with Crew() as crew:
        receivers = [peer.start(crew, server, f"receiver-{number}") for number in range(MORE)]
        sender = peer.start(crew, server, "sender")
        processes = [f"bench.costs{number}!" for number in range(MORE)]
        for receiver, process in zip(receivers, processes):
            receiver.ask("serve", process=process, clients=1, mark="none")
            for group in ("few", "more") if process in processes[:FEW] else ("more",):
                receiver.ask("join", group=group, process=process, members=1)

        def spent():
            return server.processor_micros(), processor_seconds([sender.process]) * 1e6

        def cost(group, members, count):
            before = spent()
            sender.ask("group_send", group=group, calls=count, gap_us=GAP_US, size=SMALL)
            if await_count(receivers, count * members) != count * members:
                raise Failed(f"{peer.name}: not all messages to {group} arrived")
            ask_all(receivers, "collect")
            return [(end - start) / count for start, end in zip(before, spent())]

        for group, members in (("few", FEW), ("more", MORE)):
            # The first messages fill caches.
            cost(group, members, 10)
        few, more = cost("few", FEW, calls), cost("more", MORE, calls)
        route, of_sender = ((large - small) / (MORE - FEW) for small, large in zip(few, more))
        figures = {"call_us": few[0] - FEW * route, "route_us": route, "sender_us": of_sender}
        if peer.format != "pubsub":
            before = server.key_bytes()
            receivers[0].ask("join", group="many", process=processes[0], members=MANY)
            figures["member_bytes"] = (server.key_bytes() - before) / MANY
    server.clear()
    return figures


def connections(server, peer):
    """The memory of connections and subscriptions, and the connections of a process that reads one channel of a cluster."""

    def used():
        return int(server.info("memory")["used_memory"])

    server.clear()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(contextlib.closing(Client(server.port)))
        client.call("PING")
        before = used()
        for number in range(MANY):
            # As long as the topic of a group.
            client.call("SSUBSCRIBE", f"asgi:{{{number:05}}}:topic")
        subscription = (used() - before) / MANY
        before = used()
        for _ in range(RAW_CONNECTIONS):
            stack.enter_context(contextlib.closing(Client(server.port))).call("PING")
        each = (used() - before) / RAW_CONNECTIONS
    with RedisCluster(3) as cluster, Crew() as crew:
        alone = [int(node.info("clients")["connected_clients"]) for node in cluster.masters]
        receiver = peer.start(crew, cluster, "receiver")
        receiver.ask("serve", process=PROCESS, clients=1, mark="none")
        # The reader connects in the background.
        time.sleep(1)
        with_one = [int(node.info("clients")["connected_clients"]) for node in cluster.masters]
    found = [after - before for after, before in zip(with_one, alone)]
    fewest = min(found)
    return {
        "connection_bytes": each,
        "subscription_bytes": subscription,
        "each": fewest,
        "more": sum(found) - fewest * len(found),
    }


def hubs(server, peer, sizes):
    """Two hubs with half of the sockets each: the first one sends, so the second one shows the cost of receiving."""

    def spent(sockets, gap, calls):
        server.clear()
        with Crew() as crew:
            both = [crew.start(f"hub-{number}", [str(word) for word in peer.arguments], redis=server.url) for number in range(2)]
            counting = crew.start("sockets-of-costs", [str(BINARIES / "sockets")])
            counting.ask("open", ports=[hub.port for hub in both], sockets=sockets, plain=True)
            # Connected sockets may not have joined the room yet.
            time.sleep(1)
            before = [processor_seconds([hub.process]) for hub in both]
            both[0].ask("group_send", calls=calls, gap_us=gap, size=SMALL)
            if await_count([counting], calls * sockets) != calls * sockets:
                raise Failed(f"{peer.name}: not all frames arrived")
            after = [processor_seconds([hub.process]) for hub in both]
        server.clear()
        return [(end - start) / calls * 1e6 for start, end in zip(before, after)]

    (quiet_sender, quiet_other), (_, other) = spent(*QUIET, sizes.cost_calls), spent(*CROWDED, sizes.cost_calls // 10)
    frame = other / (CROWDED[0] / 2)
    return {
        "frame_us": frame,
        # With the frame of one socket.
        "group_us": quiet_other,
        "send_us": quiet_sender - quiet_other,
        "echo_us": hub_echo(peer, sizes.hub_echoes),
    }


def hub_echo(peer, count):
    """Returns the processor time of a hub without Redis for a frame of a client and its answer."""
    with Crew() as crew:
        hub = crew.start("hub-echo", [str(word) for word in peer.arguments], redis=None)
        client = clients(crew)
        client.ask("open", port=hub.port, sockets=ECHO_SOCKETS)
        before = processor_seconds([hub.process])
        client.ask("echo", count=count, size=SMALL)
        return (processor_seconds([hub.process]) - before) / count * 1e6


def interface(server, sizes):
    """Echoes through the interface server, Redis and a worker, and the memory of sockets that are idle."""
    server.clear()
    with Crew() as crew:
        peer = binary(OURS, "interface")
        worker, front = (peer.start(crew, server, role) for role in ("worker", "interface"))
        worker.ask("work")
        port = front.ask("serve")["port"]
        client = clients(crew)
        client.ask("open", port=port, sockets=ECHO_SOCKETS)

        def spent():
            return [processor_seconds([one.process]) * 1e6 for one in (front, worker)] + [server.processor_micros()]

        before = spent()
        client.ask("echo", count=sizes.hub_echoes, size=SMALL)
        front_us, worker_us, redis_us = ((end - start) / sizes.hub_echoes for start, end in zip(before, spent()))
        empty = resident(front.process.pid)
        idle = crew.start("sockets-of-costs", [str(BINARIES / "sockets")])
        idle.ask("open", ports=[port], sockets=IDLE_SOCKETS, plain=True)
        # The worker accepts the last ones.
        time.sleep(1)
        memory = (resident(front.process.pid) - empty) / IDLE_SOCKETS
    server.clear()
    return {"server_us": front_us, "worker_us": worker_us, "redis_us": redis_us, "socket_bytes": memory}


def resident(pid):
    """Returns the resident memory of a process in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise Failed("a process has no resident memory")
