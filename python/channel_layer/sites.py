"""The channel layers of a Django site, as its settings describe them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

#: The kind of each class of this package and of ``channels_redis``.
KINDS = {
    "channel_layer.layers.RedisChannelLayer": "native",
    "channel_layer.layers.ChannelsRedisLayer": "channels_redis",
    "channel_layer.layers.PubSubChannelLayer": "pubsub",
    "channel_layer.layers.MemoryChannelLayer": "memory",
    "channels_redis.core.RedisChannelLayer": "channels_redis",
    "channels_redis.pubsub.RedisPubSubChannelLayer": "pubsub",
}


@dataclass(frozen=True)
class ConfiguredLayer:
    """An entry of ``CHANNEL_LAYERS``."""

    alias: str
    backend: type
    #: The kind of the layer, or ``None`` if it is neither of this package nor of ``channels_redis``.
    kind: str | None
    config: Mapping[str, Any]

    @property
    def is_ours(self) -> bool:
        """Whether the class is one of this package, or a subclass of one."""
        return any(base.__module__.startswith("channel_layer.") for base in self.backend.__mro__)


def configured_layers() -> Iterator[ConfiguredLayer]:
    """The layers of the site. An entry whose ``BACKEND`` cannot be imported is left to Channels, which names it."""
    for alias, entry in getattr(settings, "CHANNEL_LAYERS", {}).items():
        try:
            backend = import_string(entry["BACKEND"])
        except (ImportError, KeyError, TypeError):
            continue
        names = (f"{base.__module__}.{base.__qualname__}" for base in backend.__mro__)
        kind = next((KINDS[name] for name in names if name in KINDS), None)
        yield ConfiguredLayer(alias, backend, kind, entry.get("CONFIG") or {})


def configured_layer(alias: str) -> ConfiguredLayer:
    """Returns the layer with this alias. Raises ``ImproperlyConfigured`` if there is none."""
    for layer in configured_layers():
        if layer.alias == alias:
            return layer
    aliases = ", ".join(getattr(settings, "CHANNEL_LAYERS", {})) or "none"
    raise ImproperlyConfigured(f"CHANNEL_LAYERS has no layer {alias} that can be imported; it has {aliases}")
