"""The amount of work of each load. The shape of a load is the same for all peers. Slow peers get fewer messages."""

from dataclasses import dataclass

from .peers import (
    ASGI_REDIS,
    AXUM,
    CHANNELS_REDIS,
    DAPHNE,
    ENCRYPTED,
    HUB,
    OURS,
    PUBSUB,
    REDIS_RS,
    SOCKET_IO,
    SOCKETIOXIDE,
)

SMALL, LARGE = 100, 10_000

# The shapes of the loads.
SENDERS, CHANNELS = 256, 16
CLIENTS = 50
QUEUE_SENDERS, WORKERS = 4, 4
PROCESSES, GROUP = 4, 10_000
SOCKETS, INSTANCES = 10_000, 2
GAP_US = 1000
SENDS_PER_SECOND, CHANGES_PER_SECOND = 50, 100


@dataclass
class Sizes:
    rounds: int
    send: dict
    end_to_end: dict
    end_to_end_large: dict
    limit: int
    queue: dict
    # After so many seconds without a delivery, all messages count as delivered.
    quiet: float
    latency: dict
    pings: int
    group_sizes: list
    group_calls: dict
    flat_calls: int
    churn_seconds: float
    memory: int
    broadcasts: dict
    rooms: dict
    echo: dict
    handshakes: int
    django: int
    django_calls: int
    cluster_send: int
    cost_messages: int
    cost_calls: int
    hub_echoes: int
    stored: int = 1000
    receivers: int = 100
    cached: int = 10_000


QUICK = Sizes(
    rounds=3,
    send={OURS: 300_000, REDIS_RS: 300_000, CHANNELS_REDIS: 3000, ASGI_REDIS: 5000},
    end_to_end={OURS: 300_000, ENCRYPTED: 300_000, CHANNELS_REDIS: 1000, PUBSUB: 3000, ASGI_REDIS: 2000},
    end_to_end_large={OURS: 25_000, ENCRYPTED: 25_000, CHANNELS_REDIS: 800, PUBSUB: 2000, ASGI_REDIS: 1500},
    limit=500_000,
    queue={OURS: 40_000, REDIS_RS: 40_000, CHANNELS_REDIS: 1500, ASGI_REDIS: 4000},
    quiet=1.0,
    latency={OURS: 500, CHANNELS_REDIS: 200, ASGI_REDIS: 200},
    pings=500,
    group_sizes=[100, 100_000],
    group_calls={OURS: 100, CHANNELS_REDIS: 3, PUBSUB: 5, ASGI_REDIS: 1, SOCKETIOXIDE: 10, SOCKET_IO: 5},
    flat_calls=15,
    churn_seconds=2.0,
    memory=1_000_000,
    broadcasts={HUB: 50, AXUM: 50},
    rooms={HUB: 25, SOCKETIOXIDE: 10, SOCKET_IO: 5},
    echo={OURS: 50_000, DAPHNE: 1000},
    handshakes=3000,
    django=200_000,
    django_calls=50,
    cluster_send=300_000,
    cost_messages=300_000,
    cost_calls=1000,
    hub_echoes=100_000,
)

FULL = Sizes(
    rounds=5,
    send={OURS: 400_000, REDIS_RS: 400_000, CHANNELS_REDIS: 4000, ASGI_REDIS: 5000},
    end_to_end={OURS: 400_000, ENCRYPTED: 400_000, CHANNELS_REDIS: 2500, PUBSUB: 8000, ASGI_REDIS: 5000},
    end_to_end_large={OURS: 40_000, ENCRYPTED: 40_000, CHANNELS_REDIS: 2000, PUBSUB: 5000, ASGI_REDIS: 4000},
    limit=1_000_000,
    queue={OURS: 100_000, REDIS_RS: 100_000, CHANNELS_REDIS: 2000, ASGI_REDIS: 4000},
    quiet=3.0,
    latency={OURS: 3000, CHANNELS_REDIS: 1000, ASGI_REDIS: 1000},
    pings=3000,
    group_sizes=[10, 100, 1000, 10_000, 100_000],
    group_calls={OURS: 300, CHANNELS_REDIS: 5, PUBSUB: 20, ASGI_REDIS: 1, SOCKETIOXIDE: 50, SOCKET_IO: 20},
    flat_calls=30,
    churn_seconds=4.0,
    memory=2_000_000,
    broadcasts={HUB: 100, AXUM: 100},
    rooms={HUB: 100, SOCKETIOXIDE: 50, SOCKET_IO: 20},
    echo={OURS: 100_000, DAPHNE: 2000},
    handshakes=5000,
    django=300_000,
    django_calls=100,
    cluster_send=400_000,
    cost_messages=400_000,
    cost_calls=2000,
    hub_echoes=200_000,
)
