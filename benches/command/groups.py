"""The loads on groups, and their ratios. Members stay from round to round, on separate servers."""

import contextlib
import time
from pathlib import Path

from .children import Crew, Failed, ask_all, await_count, stopped
from .figures import percentile
from .load import Load
from .paths import BINARIES
from .peers import ASGI_REDIS, CHANNELS_REDIS, OURS, PUBSUB, SOCKET_IO, SOCKETIOXIDE
from .ratios import Ratio
from .redis_server import RedisServer
from .sizes import CHANGES_PER_SECOND, GROUP, PROCESSES, SENDS_PER_SECOND, SMALL

# Pause between calls, so that the deliveries of one call do not delay the next.
CALM_US = 60_000
# Number of calls whose cost for Redis is counted, at most. Between them, all deliveries arrive and all readers wait again.
CALLS_ALONE = 20
ALONE_US = 5000
# The peers whose processor time in Redis is counted.
COUNTED = {OURS, ASGI_REDIS, CHANNELS_REDIS}


class Members:
    """Processes with members of groups, a sender, and a server between them."""

    def __init__(self, stack, peer, sizes):
        self.peer = peer
        self.server = stack.enter_context(RedisServer())
        crew = stack.enter_context(Crew())
        self.receivers = [peer.start(crew, self.server, f"member-{number}") for number in range(PROCESSES)]
        self.sender = peer.start(crew, self.server, "sender")
        self.sizes = {f"bench.{size}": size for size in sizes}
        self.outside = None
        most = max(sizes) // PROCESSES
        for number, receiver in enumerate(self.receivers):
            receiver.tell("serve", process=process(number), clients=most, mark="none")
        for receiver in self.receivers:
            receiver.hear()
        for group, size in self.sizes.items():
            self._join(group, size)

    def _join(self, group, size):
        for number, receiver in enumerate(self.receivers):
            members = size // PROCESSES + (number < size % PROCESSES)
            receiver.tell("join", group=group, process=process(number), members=members)
        for receiver in self.receivers:
            receiver.hear()
        # The first message fills caches before the measurement.
        self.send(group, 1)

    def send(self, group, calls, gap_us=0, pause=contextlib.nullcontext):
        """Sends within `pause`, and waits until every member has received every message."""
        wanted = calls * self.sizes[group]
        with pause():
            answer = self.sender.ask("group_send", group=group, calls=calls, gap_us=gap_us, size=SMALL)
        came = await_count(self.receivers, wanted)
        last = max(taken["last"] for taken in ask_all(self.receivers, "collect"))
        if came != wanted:
            raise Failed(f"{self.peer.name}: {came} of {wanted} deliveries to {group} arrived")
        return answer | {"rate": came / (last - answer["start"]) * 1e9}

    def waiting_us(self):
        """Returns how long the threads of the sender and the server have waited for a processor so far."""
        threads = [
            thread
            for process in (self.sender.process, self.server.process)
            for thread in Path(f"/proc/{process.pid}/task").iterdir()
        ]
        return sum(int((thread / "schedstat").read_text().split()[1]) for thread in threads) / 1e3

    def counted(self, action, calls):
        """Returns the processor time of the server for each call of `action`, and the result of `action`."""
        self.server.begin_cpu()
        result = action()
        return self.server.cpu_micros(self.outside) / calls, result


def process(number):
    return f"bench.process{number}!"


def flat(the):
    members = Members(the.stack, the.peers[OURS], the.sizes.group_sizes)

    def contestant(group, pause):
        def measure():
            before = members.waiting_us()
            answer = members.send(group, the.sizes.flat_calls, CALM_US, pause)
            waited = (members.waiting_us() - before) / the.sizes.flat_calls
            return {"p50": percentile(answer["nanos"], 0.5) / 1e3, "waited": waited}

        return measure

    contestants = {}
    for group, size in members.sizes.items():
        contestants[f"{size:,} members"] = contestant(group, contextlib.nullcontext)
        # The receivers deliver after the calls, as if they had their own processors.
        contestants[elsewhere(f"{size:,} members")] = contestant(group, lambda: stopped(members.receivers))
    return contestants


def large(the):
    contestants = {}
    for name, calls in the.sizes.group_calls.items():
        if name in the.peers:
            make = of_sockets if name in {SOCKETIOXIDE, SOCKET_IO} else of_layer
            try:
                contestants[name] = make(the.stack, the.peers[name], calls)
            except Failed as reason:
                the.failures[f"group_10k: {name}"] = str(reason)
    return contestants


def of_layer(stack, peer, calls):
    members = Members(stack, peer, [GROUP])
    group = f"bench.{GROUP}"

    def measure():
        if peer.name not in COUNTED:
            return {"rate": members.send(group, calls)["rate"]}
        if members.outside is None:
            members.outside = members.server.shares_outside_scripts(lambda: members.send(group, 1))
        # Without a pause, several calls would share the reads of the receivers.
        alone = min(calls, CALLS_ALONE)
        cpu, _ = members.counted(lambda: members.send(group, alone, ALONE_US), alone)
        answer = members.send(group, calls)
        return {"rate": answer["rate"], "redis_us": cpu, "p50": percentile(answer["nanos"], 0.5) / 1e3}

    return measure


def of_sockets(stack, peer, calls):
    """Measures deliveries to WebSockets. One client process counts those of all sockets."""
    server = stack.enter_context(RedisServer())
    crew = stack.enter_context(Crew())
    servers = [peer.start(crew, server, f"server-{number}") for number in range(PROCESSES)]
    client = crew.start(f"sockets-of-{peer.name}", [str(BINARIES / "sockets")])
    client.ask("open", ports=[one.port for one in servers], sockets=GROUP)

    def broadcast(times):
        wanted = times * GROUP
        answer = servers[0].ask("group_send", calls=times, size=SMALL)
        came = await_count([client], wanted)
        last = client.ask("collect")["last"]
        if came != wanted:
            raise Failed(f"{peer.name}: {came} of {wanted} deliveries arrived")
        return {"rate": came / (last - answer["start"]) * 1e9}

    # Connected sockets may not have joined the room yet.
    time.sleep(1)
    broadcast(1)
    return lambda: broadcast(calls)


def churn(the):
    members = Members(the.stack, the.peers[OURS], [GROUP])
    group, calls = f"bench.{GROUP}", int(SENDS_PER_SECOND * the.sizes.churn_seconds)
    changes = {
        "group": group,
        "process": process(0),
        "per_second": CHANGES_PER_SECOND,
        "seconds": calls / SENDS_PER_SECOND,
    }

    def send_for_a_while(changing, times):
        if changing:
            members.receivers[0].tell("churn", **changes)
        gap = 1_000_000 // SENDS_PER_SECOND
        answer = members.sender.ask("group_send", group=group, calls=times, gap_us=gap, size=SMALL)
        if changing:
            members.receivers[0].hear()
        # The members change between sends, so only the minimum number of deliveries is known.
        await_count(members.receivers, times * GROUP)
        time.sleep(0.2)
        came = sum(taken["count"] for taken in ask_all(members.receivers, "collect"))
        if came < times * GROUP:
            raise Failed(f"{came} of at least {times * GROUP} deliveries arrived while members changed")
        return answer

    def contestant(changing):
        def measure():
            if members.outside is None:
                members.outside = members.server.shares_outside_scripts(lambda: send_for_a_while(True, 10))
            cpu, answer = members.counted(lambda: send_for_a_while(changing, calls), calls)
            return {"redis_us": cpu, "p50": percentile(answer["nanos"], 0.5) / 1e3}

        return measure

    return {"members stay": contestant(False), "members change": contestant(True)}


LOADS = [
    Load("flat", f"group_send: time of a call, members on {PROCESSES} processes", flat),
    Load("group_10k", f"group_send: {GROUP:,} members on {PROCESSES} processes", large),
    Load("churn", f"group_send: {SENDS_PER_SECOND}/s to {GROUP:,} members that join and leave", churn),
]

SMALL_GROUP, LARGE_GROUP = "100 members", "100,000 members"


def elsewhere(group):
    return f"{group}, elsewhere"


RATIOS = [
    Ratio("group_flatness", "flat", LARGE_GROUP, SMALL_GROUP, "p50", at_most=1.5),
    Ratio("group_flatness_elsewhere", "flat", elsewhere(LARGE_GROUP), elsewhere(SMALL_GROUP), "p50"),
    Ratio(
        *("group_10k_cpu_vs_asgi_redis", "group_10k", OURS, ASGI_REDIS, "redis_us"),
        at_least=1000,
        inverse=True,
    ),
    Ratio("group_10k_cpu_vs_channels_redis", "group_10k", OURS, CHANNELS_REDIS, "redis_us", inverse=True),
    Ratio(
        *("group_10k_vs_channels_redis", "group_10k", OURS, CHANNELS_REDIS),
        at_least=1,
        label="group of 10,000, over channels_redis",
    ),
    Ratio(
        *("group_10k_vs_channels_redis_pubsub", "group_10k", OURS, PUBSUB),
        at_least=1,
        label="group of 10,000, over channels_redis pub/sub",
    ),
    Ratio(
        *("group_10k_vs_asgi_redis", "group_10k", OURS, ASGI_REDIS),
        at_least=1,
        label="group of 10,000, over asgi_redis",
    ),
    # Not in the chart: ours are delivered to receivers and theirs to sockets. The chart compares rooms of the Hub instead.
    Ratio("group_10k_vs_socketioxide", "group_10k", OURS, SOCKETIOXIDE, at_least=1),
    Ratio("group_10k_vs_socketio", "group_10k", OURS, SOCKET_IO, at_least=1),
    Ratio("group_churn_cost", "churn", "members change", "members stay", "redis_us", at_most=3),
]
