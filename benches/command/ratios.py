"""The ratios that the loads give, and what each should reach."""

from dataclasses import dataclass
from statistics import median

from .figures import ratios, spread
from .peers import (
    ASGI_REDIS,
    CHANNELS_REDIS,
    ENCRYPTED,
    MPSC,
    OURS,
    PUBSUB,
    REDIS_BENCHMARK,
    REDIS_RS,
    SOCKET_IO,
    SOCKETIOXIDE,
)


@dataclass
class Ratio:
    """One figure of one contestant over that of another, in the rounds of a load."""

    key: str
    load: str
    ours: str
    theirs: str
    figure: str = "rate"
    at_least: float | None = None
    at_most: float | None = None
    # For costs: theirs over ours.
    inverse: bool = False

    def rounds(self, measured):
        of = measured.get(self.load, {})
        ours = [figures[self.figure] for figures in of.get(self.ours, []) if self.figure in figures]
        theirs = [figures[self.figure] for figures in of.get(self.theirs, []) if self.figure in figures]
        return ratios(theirs, ours) if self.inverse else ratios(ours, theirs)

    def spread(self, measured):
        rounds = self.rounds(measured)
        return spread(rounds) if rounds else None

    def target(self):
        return target(self)

    def met(self, value):
        return met(self, value)


@dataclass
class Figure:
    """A figure of ours alone: the median over the rounds, or for what must not happen the worst of them."""

    key: str
    load: str
    figure: str
    at_most: float | None = None
    at_least: float | None = None
    worst: bool = False

    def spread(self, measured):
        found = [figures[self.figure] for figures in measured.get(self.load, {}).get(OURS, [])]
        if not found:
            return None
        return spread(found) | ({"median": max(found)} if self.worst else {})

    def target(self):
        return target(self)

    def met(self, value):
        return met(self, value)


def target(one):
    if one.at_least is not None:
        return f">= {one.at_least:,g}"
    if one.at_most is not None:
        return f"<= {one.at_most:,g}" if one.at_most else "0"
    return "shown"


def met(one, value):
    return (one.at_least is None or value >= one.at_least) and (one.at_most is None or value <= one.at_most)


SMALL_GROUP, LARGE_GROUP = "100 members", "100,000 members"


def elsewhere(group):
    return f"{group}, elsewhere"


ALL = [
    Ratio("send_vs_rpush", "send", OURS, REDIS_RS, at_least=1.3),
    Ratio("e2e_vs_limit", "e2e", OURS, REDIS_BENCHMARK, at_least=0.4),
    Ratio("e2e_vs_channels_redis", "e2e", OURS, CHANNELS_REDIS, at_least=100),
    Ratio("e2e_10k_vs_channels_redis", "e2e_10k", OURS, CHANNELS_REDIS, at_least=30),
    Ratio("queue_vs_channels_redis", "queue", OURS, CHANNELS_REDIS, at_least=20),
    Ratio("queue_vs_asgi_redis", "queue", OURS, ASGI_REDIS, at_least=5),
    Figure("queue_lost", "queue", "lost", at_most=0, worst=True),
    Figure("queue_duplicated", "queue", "duplicated", at_most=0, worst=True),
    Ratio("latency_p50_vs_ping", "latency", OURS, REDIS_RS, "p50", at_most=1.8),
    Ratio("group_flatness", "flat", LARGE_GROUP, SMALL_GROUP, "p50", at_most=1.5),
    Ratio("group_flatness_elsewhere", "flat", elsewhere(LARGE_GROUP), elsewhere(SMALL_GROUP), "p50"),
    Ratio("group_10k_cpu_vs_asgi_redis", "group_10k", OURS, ASGI_REDIS, "redis_us", at_least=1000, inverse=True),
    Ratio("group_10k_cpu_vs_channels_redis", "group_10k", OURS, CHANNELS_REDIS, "redis_us", inverse=True),
    Ratio("group_10k_vs_channels_redis", "group_10k", OURS, CHANNELS_REDIS, at_least=1),
    Ratio("group_10k_vs_channels_redis_pubsub", "group_10k", OURS, PUBSUB, at_least=1),
    Ratio("group_10k_vs_asgi_redis", "group_10k", OURS, ASGI_REDIS, at_least=1),
    Ratio("group_10k_vs_socketioxide", "group_10k", OURS, SOCKETIOXIDE, at_least=1),
    Ratio("group_10k_vs_socketio", "group_10k", OURS, SOCKET_IO, at_least=1),
    Ratio("group_churn_cost", "churn", "members change", "members stay", "redis_us", at_most=3),
    Ratio("encrypted_vs_plain", "e2e", ENCRYPTED, OURS, at_least=0.8),
    Ratio("encrypted_10k_vs_plain", "e2e_10k", ENCRYPTED, OURS, at_least=0.6),
    Ratio("redis_bytes_vs_asgi_redis", "stored", OURS, ASGI_REDIS, "bytes", at_most=0.6),
    Ratio("memory_vs_mpsc", "memory", OURS, MPSC, at_least=0.35),
    Figure("bytes_per_receiver", "footprint", "bytes_per_receiver"),
    Figure("bytes_per_1000_members", "footprint", "bytes_per_1000_members"),
]


def medians(measured, load):
    """Of each contestant the medians of its figures."""
    result = {}
    for name, rounds in measured.get(load, {}).items():
        names = dict.fromkeys(figure for figures in rounds for figure in figures)
        result[name] = {
            figure: median(figures[figure] for figures in rounds if figure in figures) for figure in names
        }
    return result
