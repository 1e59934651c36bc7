"""The loads on a Redis Cluster, and the cost of a single send for Redis."""

import time

from .children import Crew, Failed
from .load import Load, rate
from .paths import LOGS
from .peers import OURS, REDIS_RS
from .ratios import Figure, Ratio
from .redis_cluster import NODE_TIMEOUT_MS, SLOTS, RedisCluster
from .redis_server import RedisServer
from .sizes import SMALL
from .steady import Steady

MASTERS = 3
SPREAD_CHANNELS, MANY_CHANNELS = 256, 10_000
# The slots that move away from a master and return.
MOVED = range(SLOTS // MASTERS // 2)
# The difference of the two counts is the cost of the additional sends.
FEW, MORE = 500, 1500

ONE, CLUSTER = "one server", f"{MASTERS} masters"


def pushes(the):
    """Without replicas, because the cost of replication is that of Redis."""
    cluster = the.stack.enter_context(RedisCluster(MASTERS))
    count = the.sizes.cluster_send
    return {
        ONE: lambda: push(the, the.server, SPREAD_CHANNELS, count),
        CLUSTER: lambda: push(the, cluster, SPREAD_CHANNELS, count),
    }


def balances(the):
    cluster = the.stack.enter_context(RedisCluster(MASTERS))
    return {OURS: lambda: push(the, cluster, MANY_CHANNELS, the.sizes.cluster_send)}


def push(the, servers, channels, count):
    """Sends to channels without readers, a sender for each. Returns the processor time of all masters for each message."""
    servers.clear()
    with Crew() as crew:
        sender = the.peers[OURS].start(crew, servers, "sender")
        before = micros(servers)
        names = [f"bench.send.{number}" for number in range(channels)]
        answer = sender.ask("send", channels=names, count=count, senders=channels, size=SMALL, mark="none")
        spent = [after - start for after, start in zip(micros(servers), before)]
    servers.clear()
    return {
        "rate": rate(count, answer),
        "redis_each": sum(spent) / count,
        "busiest": max(spent) * len(spent) / sum(spent),
    }


def micros(servers):
    return servers.processor_micros() if isinstance(servers, RedisCluster) else [servers.processor_micros()]


def moves(the):
    """Slots move away and return, and then each replica becomes the master and its master again."""

    def measure():
        with RedisCluster(MASTERS, replicas=1) as cluster, Steady(the.peers[OURS], cluster) as load:
            cluster.move_slots(MOVED, 0, 1)
            cluster.move_slots(MOVED, 1, 0)
            of_reshard = load.errors()
            for _ in range(2):
                for number in range(MASTERS):
                    cluster.fail_over(number)
                # Before that, a second election about the same master has no votes, and the master refuses writes for 5 s.
                time.sleep(2.5 * NODE_TIMEOUT_MS / 1000)
            result = load.end()
        return {
            "reshard_errors": of_reshard,
            "failover_errors": result["errors"] - of_reshard,
            "count": result["sent"],
            "lost": result["lost"],
            "duplicated": result["duplicated"],
            "disordered": result["disordered"],
        }

    return {OURS: measure}


def kills(the):
    """A master is killed. What it had acknowledged and not replicated is lost, so only the silence counts."""

    def measure():
        with RedisCluster(MASTERS, replicas=1) as cluster, Steady(the.peers[OURS], cluster) as load:
            cluster.kill(0)
            # The readers of its channels find the new master as well.
            time.sleep(2 * NODE_TIMEOUT_MS / 1000)
            result = load.end()
        return {"gap": result["silence_ms"] / NODE_TIMEOUT_MS, "count": result["sent"], "errors": result["errors"]}

    return {OURS: measure}


def single_sends(the):
    return {OURS: lambda: {"instructions": instructions(lambda count, server: send_alone(the, server, count))}} | {
        REDIS_RS: lambda: {"instructions": instructions(lambda count, server: push_alone(the, server, count))}
    }


def instructions(run):
    """Returns the instructions of redis-server for each call of a run, counted by callgrind."""
    counted = []
    for count in (FEW, MORE):
        out = LOGS / "callgrind.redis"
        LOGS.mkdir(parents=True, exist_ok=True)
        with RedisServer(under=["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"]) as server:
            run(count, server)
            server.stop()
        totals = [line for line in out.read_text().splitlines() if line.startswith(("totals:", "summary:"))]
        if not totals:
            raise Failed("callgrind: no totals in its output")
        counted.append(int(totals[-1].split(":")[1].split()[0]))
    return (counted[1] - counted[0]) / (MORE - FEW)


def send_alone(the, server, count):
    """Sends one message at a time."""
    with Crew() as crew:
        sender = the.peers[OURS].start(crew, server, "sender")
        sender.ask("send_paced", channel="bench.send", count=count, gap_us=0, size=SMALL)


def push_alone(the, server, count):
    """Appends the same entry to the same key, one at a time, by RPUSH."""
    send_alone(the, server, 1)
    _, keys = server.client.call("SCAN", 0, "COUNT", 1000)
    (key,) = [key for key in keys if server.client.call("TYPE", key) == b"list"]
    (entry,) = server.client.call("LRANGE", key, 0, -1)
    for _ in range(count):
        server.client.call("RPUSH", key, entry)


LOADS = [
    Load("cluster_push", f"send to {SPREAD_CHANNELS} normal channels: {MASTERS} masters beside one server", pushes),
    Load("cluster_balance", f"send to {MANY_CHANNELS:,} normal channels on {MASTERS} masters", balances, rounds=2),
    Load("cluster_moves", f"{len(MOVED):,} slots to and fro, and {2 * MASTERS} planned failovers, under load", moves, rounds=1),
    Load("cluster_kill", "a master is killed under load", kills, rounds=2),
    Load("single_send", "a single send, for Redis", single_sends, rounds=1),
]

RATIOS = [
    Ratio("cluster_push_cost", "cluster_push", CLUSTER, ONE, "redis_each", at_most=1.8),
    Figure("cluster_balance", "cluster_balance", "busiest", at_most=1.2),
    Figure("cluster_reshard_errors", "cluster_moves", "reshard_errors", at_most=0, worst=True),
    Figure("cluster_failover_errors", "cluster_moves", "failover_errors", at_most=0, worst=True),
    Figure("cluster_lost", "cluster_moves", "lost", at_most=0, worst=True),
    Figure("cluster_duplicated", "cluster_moves", "duplicated", at_most=0, worst=True),
    Figure("cluster_failover_gap", "cluster_kill", "gap", at_most=2.5, worst=True),
    Ratio("single_send_redis_cost", "single_send", OURS, REDIS_RS, "instructions", at_most=6),
]
