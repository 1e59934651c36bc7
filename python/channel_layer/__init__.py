"""Channel layers for Django Channels.

``RedisChannelLayer`` is the fastest and has all features. ``ChannelsRedisLayer`` and ``PubSubChannelLayer`` use the
wire formats of ``channels_redis``, so that processes with either package exchange messages. ``MemoryChannelLayer``
works inside one process, for tests.

    CHANNEL_LAYERS = {
        "default": {
            "BACKEND": "channel_layer.RedisChannelLayer",
            "CONFIG": {"hosts": ["redis://127.0.0.1:6379/0"]},
        },
    }

Importing the package starts no thread and opens no connection. A layer connects when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .exceptions import ChannelLayerError, MessageError, RedisError
    from .layers import ChannelsRedisLayer, MemoryChannelLayer, PubSubChannelLayer, RedisChannelLayer

__all__ = [
    "ChannelLayerError",
    "ChannelsRedisLayer",
    "MemoryChannelLayer",
    "MessageError",
    "PubSubChannelLayer",
    "RedisChannelLayer",
    "RedisError",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: Django imports the package for its app before its settings are complete.
    if name in __all__:
        from . import exceptions, layers

        return getattr(exceptions if hasattr(exceptions, name) else layers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
