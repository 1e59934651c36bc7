"""The loads: what each contestant does in one round, and the figures that come of it."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from . import groups
from .children import Crew, Failed, ask_all, await_count
from .figures import percentile
from .peers import MPSC, OURS, REDIS_BENCHMARK, REDIS_RS, binary, run
from .redis_server import RedisServer
from .sizes import (
    CHANNELS,
    CLIENTS,
    GAP_US,
    GROUP,
    LARGE,
    PROCESSES,
    QUEUE_SENDERS,
    SENDERS,
    SENDS_PER_SECOND,
    SMALL,
    WORKERS,
    Sizes,
)

PROCESS = "bench.process!"
QUEUE = "bench.queue"


@dataclass
class Context:
    """What a load is made of."""

    sizes: Sizes
    peers: dict
    server: RedisServer
    # Takes down what the load keeps between rounds.
    stack: contextlib.ExitStack
    failures: dict

    def each(self, counts, measure, *more):
        """A contestant for every peer that has a count and is there."""

        def contestant(name, count):
            return lambda: measure(self.server, self.peers[name], count, *more)

        return {name: contestant(name, count) for name, count in counts.items() if name in self.peers}


@dataclass
class Load:
    key: str
    title: str
    # Gives the contestants by name, each a function that measures one round.
    make: Callable
    # Only one for what does not vary.
    rounds: int | None = None


def sends(the):
    return the.each(the.sizes.send, send)


def end_to_ends(the):
    peers = the.each(the.sizes.end_to_end, end_to_end, SMALL)
    return peers | {REDIS_BENCHMARK: lambda: limit(the.server, the.sizes.limit)}


def large_end_to_ends(the):
    return the.each(the.sizes.end_to_end_large, end_to_end, LARGE)


def queues(the):
    return the.each(the.sizes.queue, queue)


def latencies(the):
    return the.each(the.sizes.latency, latency) | {REDIS_RS: lambda: ping(the.server, the.sizes.pings)}


def memories(the):
    return {OURS: lambda: memory("memory", the.sizes.memory), MPSC: lambda: memory("mpsc", the.sizes.memory)}


def all_stored(the):
    return the.each(dict.fromkeys(the.sizes.send, the.sizes.stored), stored)


def footprints(the):
    return {OURS: lambda: footprint(the.server, the.sizes)}


ALL = [
    Load("send", f"send: {SENDERS} senders, {CHANNELS} normal channels, 100 B", sends),
    Load("e2e", f"end to end: one ! channel, {CLIENTS} clients, 100 B", end_to_ends),
    Load("e2e_10k", "end to end: the same with 10 KB", large_end_to_ends),
    Load("queue", f"queue: {QUEUE_SENDERS} senders, {WORKERS} worker processes", queues),
    Load("latency", "idle send to receive, between two processes", latencies),
    Load("flat", f"group_send: time of a call, members on {PROCESSES} processes", groups.flat),
    Load("group_10k", f"group_send: {GROUP:,} members on {PROCESSES} processes", groups.large),
    Load("churn", f"group_send: {SENDS_PER_SECOND}/s to {GROUP:,} members that join and leave", groups.churn),
    Load("memory", "MemoryLayer: one task sends, another receives", memories),
    Load("stored", "bytes in Redis per queued message of 100 B", all_stored, rounds=1),
    Load("footprint", "bytes on the heap", footprints, rounds=1),
]


def rate(count, answer, end=None):
    return count / ((end or answer["end"]) - answer["start"]) * 1e9


def send(server, peer, count):
    """Nobody reads; every sender waits for its message to be accepted."""
    server.clear()
    with Crew() as crew:
        sender = peer.start(crew, server, "sender")
        channels = [f"bench.send.{number}" for number in range(CHANNELS)]
        arguments = {} if peer.name == REDIS_RS else {"mark": "none"}
        answer = sender.ask("send", channels=channels, count=count, senders=SENDERS, size=SMALL, **arguments)
    server.clear()
    return {"rate": rate(count, answer)}


def end_to_end(server, peer, count, size):
    """One process sends to the clients of another."""
    server.clear()
    with Crew() as crew:
        receiver = peer.start(crew, server, "receiver")
        sender = peer.start(crew, server, "sender")
        targets = receiver.ask("serve", process=PROCESS, clients=CLIENTS, mark="none")["targets"]
        sender.tell("send", channels=targets, count=count, senders=SENDERS, size=size, mark="none")
        answer = sender.hear()
        came = await_count([receiver], count)
        taken = receiver.ask("collect")
    server.clear()
    lost = count - came
    if peer.name.startswith(OURS) and lost:
        raise Failed(f"{peer.name}: {lost} of {count} messages did not arrive")
    return {"rate": rate(came, answer, taken["last"]), "lost": lost}


def limit(server, count):
    """What redis-benchmark can push and pop with 16 commands per trip, one after the other."""
    server.clear()
    output = run(
        *("redis-benchmark", "-h", "127.0.0.1", "-p", server.port, "-P", 16, "-t", "rpush,lpop"),
        *("-d", SMALL, "-n", count, "--csv"),
    )
    server.clear()
    rates = {}
    for line in output.splitlines():
        words = line.replace('"', "").split(",")
        if words[0] in {"RPUSH", "LPOP"}:
            rates[words[0].lower()] = float(words[1])
    if len(rates) != 2:
        raise Failed(f"redis-benchmark said: {output[:300]}")
    return {"rate": 1 / (1 / rates["rpush"] + 1 / rates["lpop"])} | rates


def queue(server, peer, count):
    """Workers take one message at a time from one channel; what they took is compared with what was sent."""
    server.clear()
    with Crew() as crew:
        workers = [peer.start(crew, server, f"worker-{number}") for number in range(WORKERS)]
        sender = peer.start(crew, server, "sender")
        ask_all(workers, "receive", channel=QUEUE, mark="id")
        answer = sender.ask("send", channels=[QUEUE], count=count, senders=QUEUE_SENDERS, size=SMALL, mark="id")
        await_count(workers, count, stall=3.0)
        taken = ask_all(workers, "collect")
    server.clear()
    ids = [number for worker in taken for number in worker["ids"]]
    distinct = set(ids)
    return {
        "rate": rate(len(distinct), answer, max(worker["last"] for worker in taken)),
        "lost": count - len(distinct),
        "duplicated": len(ids) - len(distinct),
    }


def micros(nanos):
    return {name: percentile(nanos, part) / 1e3 for name, part in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)]}


def latency(server, peer, count):
    """One message at a time to a process that waits."""
    server.clear()
    with Crew() as crew:
        receiver = peer.start(crew, server, "receiver")
        sender = peer.start(crew, server, "sender")
        target = receiver.ask("serve", process=PROCESS, clients=1, mark="time")["targets"][0]
        sender.ask("send_paced", channel=target, count=count, gap_us=GAP_US, size=SMALL)
        await_count([receiver], count)
        nanos = receiver.ask("collect")["nanos"]
    if len(nanos) < count:
        raise Failed(f"{peer.name}: {count - len(nanos)} of {count} messages did not arrive")
    return micros(nanos)


def ping(server, count):
    """One PING at a time, with the same pauses."""
    with Crew() as crew:
        plain = binary(REDIS_RS, "plain").start(crew, server, "ping")
        return micros(plain.ask("ping", count=count, gap_us=GAP_US)["nanos"])


def memory(do, count):
    with Crew() as crew:
        process = crew.start("memory", [str(word) for word in binary(OURS, "layer").arguments])
        return {"rate": rate(count, process.ask(do, count=count, size=SMALL))}


def stored(server, peer, count):
    """Everything that Redis keeps when so many messages wait in one channel."""
    server.clear()
    with Crew() as crew:
        sender = peer.start(crew, server, "sender")
        arguments = {} if peer.name == REDIS_RS else {"mark": "none"}
        sender.ask("send", channels=[QUEUE], count=count, senders=1, size=SMALL, **arguments)
        found = server.key_bytes()
    server.clear()
    return {"bytes": found / count}


def footprint(server, sizes):
    server.clear()
    with Crew() as crew:
        process = binary(OURS, "footprint").start(crew, server, "footprint")
        members = process.ask("members", count=sizes.cached)["bytes"]
        receivers = process.ask("receivers", count=sizes.receivers)["bytes"]
    return {"bytes_per_receiver": receivers, "bytes_per_1000_members": members / sizes.cached * 1000}
