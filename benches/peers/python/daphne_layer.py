"""The layer of daphne 1.4.2 and its worker. BENCH_REDIS is the URL of its server."""

import os

from asgi_redis import RedisChannelLayer

# The same capacities as our interface server has.
channel_layer = RedisChannelLayer(
    hosts=[os.environ["BENCH_REDIS"]],
    capacity=1_000,
    channel_capacity={"daphne.response*": 10_000},
)
