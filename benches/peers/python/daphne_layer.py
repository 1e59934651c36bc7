"""The layer of a daphne 1.4.2 and of the worker behind it; its server is named in the environment."""

import os

from asgi_redis import RedisChannelLayer

# As much room as the interface server that it is compared with has.
channel_layer = RedisChannelLayer(
    hosts=[os.environ["BENCH_REDIS"]],
    capacity=1_000,
    channel_capacity={"daphne.response*": 10_000},
)
