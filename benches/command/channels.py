"""The loads on channels: the work of each contestant in one round, and the ratios of the results."""

from .children import Crew, Failed, ask_all, await_count, await_quiet, processor_seconds
from .figures import percentile
from .load import Load, rate
from .peers import ASGI_REDIS, CHANNELS_REDIS, ENCRYPTED, OURS, REDIS_BENCHMARK, REDIS_RS, binary, run
from .ratios import Figure, Ratio
from .sizes import CHANNELS, CLIENTS, GAP_US, LARGE, QUEUE_SENDERS, SENDERS, SMALL, WORKERS

PROCESS = "bench.process!"
QUEUE = "bench.queue"


def sends(the):
    return the.each(the.sizes.send, send)


def end_to_ends(the):
    peers = the.each(the.sizes.end_to_end, end_to_end, SMALL)
    return peers | {REDIS_BENCHMARK: lambda: limit(the.server, the.sizes.limit)}


def large_end_to_ends(the):
    return the.each(the.sizes.end_to_end_large, end_to_end, LARGE)


def queues(the):
    return the.each(the.sizes.queue, queue, the.sizes.quiet)


def latencies(the):
    return the.each(the.sizes.latency, latency) | {REDIS_RS: lambda: ping(the.server, the.sizes.pings)}


def all_stored(the):
    return the.each(dict.fromkeys(the.sizes.send, the.sizes.stored), stored)


LOADS = [
    Load("send", f"send: {SENDERS} senders, {CHANNELS} normal channels, 100 B", sends),
    Load("e2e", f"end to end: one ! channel, {CLIENTS} clients, 100 B", end_to_ends),
    Load("e2e_10k", "end to end: the same with 10 KB", large_end_to_ends),
    Load("queue", f"queue: {QUEUE_SENDERS} senders, {WORKERS} worker processes", queues),
    Load("latency", "idle send to receive, between two processes", latencies),
    Load("stored", "bytes in Redis per queued message of 100 B", all_stored, rounds=1),
]

RATIOS = [
    Ratio("send_vs_rpush", "send", OURS, REDIS_RS, at_least=1.3, label="send, over RPUSH of redis-rs"),
    Ratio(
        *("e2e_vs_limit", "e2e", OURS, REDIS_BENCHMARK),
        at_least=0.4,
        label="end to end, over the limit of redis-benchmark",
    ),
    Ratio(
        *("e2e_vs_channels_redis", "e2e", OURS, CHANNELS_REDIS),
        at_least=100,
        label="end to end, over channels_redis",
    ),
    Ratio(
        *("e2e_10k_vs_channels_redis", "e2e_10k", OURS, CHANNELS_REDIS),
        at_least=30,
        label="end to end with 10 KB, over channels_redis",
    ),
    Ratio(
        *("queue_vs_channels_redis", "queue", OURS, CHANNELS_REDIS),
        at_least=20,
        label="queue, over channels_redis",
    ),
    Ratio("queue_vs_asgi_redis", "queue", OURS, ASGI_REDIS, at_least=5, label="queue, over asgi_redis"),
    Ratio("queue_vs_redis_rs", "queue", OURS, REDIS_RS, label="queue, over RPUSH and BLMPOP of redis-rs"),
    Figure("queue_lost", "queue", "lost", at_most=0, worst=True),
    Figure("queue_duplicated", "queue", "duplicated", at_most=0, worst=True),
    Ratio("latency_p50_vs_ping", "latency", OURS, REDIS_RS, "p50", at_most=1.8),
    Ratio("encrypted_vs_plain", "e2e", ENCRYPTED, OURS, at_least=0.8, label="encrypted, over plain"),
    Ratio(
        *("encrypted_10k_vs_plain", "e2e_10k", ENCRYPTED, OURS),
        at_least=0.6,
        label="encrypted with 10 KB, over plain",
    ),
    Ratio("redis_bytes_vs_asgi_redis", "stored", OURS, ASGI_REDIS, "bytes", at_most=0.6),
]


def spending(server, *participants):
    """Returns a function that returns the processor time that the processes have used since this call, in us."""
    processes = [one.process for one in (server, *participants)]
    before = processor_seconds(processes)
    return lambda: (processor_seconds(processes) - before) * 1e6


def send(server, peer, count):
    """Sends to channels without readers. Every sender waits until its message is accepted."""
    server.clear()
    with Crew() as crew:
        sender = peer.start(crew, server, "sender")
        channels = [f"bench.send.{number}" for number in range(CHANNELS)]
        spent = spending(server, sender)
        answer = sender.ask("send", channels=channels, count=count, senders=SENDERS, size=SMALL, mark="none")
        cpu = spent() / count
    server.clear()
    return {"rate": rate(count, answer), "cpu": cpu}


def end_to_end(server, peer, count, size):
    """One process sends to the clients of another."""
    server.clear()
    with Crew() as crew:
        receiver = peer.start(crew, server, "receiver")
        sender = peer.start(crew, server, "sender")
        targets = receiver.ask("serve", process=PROCESS, clients=CLIENTS, mark="none")["targets"]
        spent = spending(server, sender, receiver)
        sender.tell("send", channels=targets, count=count, senders=SENDERS, size=size, mark="none")
        answer = sender.hear()
        came = await_count([receiver], count)
        cpu = spent() / count
        taken = receiver.ask("collect")
    server.clear()
    lost = count - came
    if peer.name.startswith(OURS) and lost:
        raise Failed(f"{peer.name}: {lost} of {count} messages did not arrive")
    return {"rate": rate(came, answer, taken["last"]), "cpu": cpu, "lost": lost}


def limit(server, count):
    """Returns the rate of redis-benchmark for a push and a pop, with 16 commands per round trip."""
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


def queue(server, peer, count, quiet):
    """Workers take one message at a time from one channel. Their messages are compared with the sent ones."""
    server.clear()
    with Crew() as crew:
        workers = [peer.start(crew, server, f"worker-{number}") for number in range(WORKERS)]
        sender = peer.start(crew, server, "sender")
        ask_all(workers, "receive", channel=QUEUE, mark="id")
        spent = spending(server, sender, *workers)
        answer = sender.ask("send", channels=[QUEUE], count=count, senders=QUEUE_SENDERS, size=SMALL, mark="id")
        # Duplicates are counted as well, so the number of deliveries does not show the end.
        await_quiet(workers, quiet)
        cpu = spent() / count
        taken = ask_all(workers, "collect")
    server.clear()
    ids = [number for worker in taken for number in worker["ids"]]
    distinct = set(ids)
    return {
        "rate": rate(len(distinct), answer, max(worker["last"] for worker in taken)),
        "cpu": cpu,
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


def stored(server, peer, count):
    """Returns the bytes in Redis for each of `count` messages that wait in one channel."""
    server.clear()
    with Crew() as crew:
        sender = peer.start(crew, server, "sender")
        sender.ask("send", channels=[QUEUE], count=count, senders=1, size=SMALL, mark="none")
        found = server.key_bytes()
    server.clear()
    return {"bytes": found / count}
