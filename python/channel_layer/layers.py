"""The layers of the package, for ``BACKEND`` in ``CHANNEL_LAYERS``."""

import atexit
import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar

from channels.layers import BaseChannelLayer
from django.core.exceptions import ImproperlyConfigured

from . import _native, config

__all__ = ["ChannelsRedisLayer", "MemoryChannelLayer", "PubSubChannelLayer", "RedisChannelLayer"]

#: How long the end of the process waits for messages that return to their channels, in seconds.
CLOSING = 2.0

atexit.register(_native.close_all, CLOSING)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_native.after_fork)


# The checks of channels, by its own expressions and with its errors. Channels 4.0 and 4.3 have them under different
# names. Processes use the same names again and again, so the result is kept.


@lru_cache(maxsize=8192)
def _is_channel(name: str) -> bool:
    return len(name) < BaseChannelLayer.MAX_NAME_LENGTH and bool(BaseChannelLayer.channel_name_regex.match(name))


@lru_cache(maxsize=8192)
def _is_group(name: str) -> bool:
    return len(name) < BaseChannelLayer.MAX_NAME_LENGTH and bool(BaseChannelLayer.group_name_regex.match(name))


def _check_channel(name: Any) -> None:
    if not (isinstance(name, str) and _is_channel(name)):
        raise TypeError(BaseChannelLayer.invalid_name_error.format("Channel"))


def _check_group(name: Any) -> None:
    if not (isinstance(name, str) and _is_group(name)):
        raise TypeError(BaseChannelLayer.invalid_name_error.format("Group"))


def _check_message(message: Any) -> None:
    assert isinstance(message, dict), "message is not a dict"
    assert "__asgi_channel__" not in message, "__asgi_channel__ is a reserved key"


class _Layer(BaseChannelLayer):
    """What all layers share. The calls are those of ``BaseChannelLayer``; the others are described here.

    A layer may be used from any number of threads and event loops, and after a fork. Cancelling a call ends it: a
    message that a cancelled ``receive`` has taken goes back and is the next one that is delivered.
    """

    extensions: ClassVar[list[str]] = ["groups", "flush"]
    _kind: ClassVar[str]
    _prefix: ClassVar[str] = "specific"

    def __init__(self, hosts: Any = None, **options: Any) -> None:
        if hosts is not None:
            options["hosts"] = hosts
        settings = config.options(options, self._kind)
        try:
            self._native = _native.Layer(self._kind, settings.json, settings.on_disconnect, settings.on_reconnect)
        except ValueError as error:
            raise ImproperlyConfigured(str(error)) from None
        shown = dict(self._native.settings())
        super().__init__(expiry=_number(shown["expiry"]), capacity=int(shown["capacity"]))
        self.channel_capacity = self.compile_capacities(options.get("channel_capacity") or {})
        self.group_expiry = _number(shown["group_expiry"])
        self.prefix = settings.options.get("prefix", "asgi")

    # Channels

    async def send(self, channel: str, message: dict[str, Any]) -> None:
        """Send a message to a channel. Raises ``ChannelFull`` if the channel is at its capacity."""
        _check_message(message)
        _check_channel(channel)
        await self._native.send(channel, message)

    async def send_many(self, messages: Iterable[tuple[str, dict[str, Any]]]) -> list[Exception | None]:
        """Send messages to channels in one round trip for each server.

        Returns a list with ``None`` or an exception for each message, in their order.
        """
        messages = list(messages)
        for channel, message in messages:
            _check_message(message)
            _check_channel(channel)
        return await self._native.send_many(messages)

    async def receive(self, channel: str) -> dict[str, Any]:
        """Wait for a message of the channel, also while Redis is unreachable."""
        _check_channel(channel)
        return await self._native.receive(channel)

    async def new_channel(self, prefix: str | None = None) -> str:
        """Return the name of a channel that only this process reads."""
        return await self._native.new_channel(self._prefix if prefix is None else prefix)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Make the channel a member of the group, or renew its membership."""
        _check_group(group)
        _check_channel(channel)
        await self._native.group_add(group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """End the membership of the channel in the group."""
        _check_group(group)
        _check_channel(channel)
        await self._native.group_discard(group, channel)

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        """Send a message to all members of the group. Members whose channel is full miss it."""
        _check_message(message)
        _check_group(group)
        await self._native.group_send(group, message)

    async def group_send_many(self, messages: Iterable[tuple[str, dict[str, Any]]]) -> list[Exception | None]:
        """Send messages to groups in as few round trips as one message.

        Returns a list with ``None`` or an exception for each message, in their order.
        """
        messages = list(messages)
        for group, message in messages:
            _check_message(message)
            _check_group(group)
        return await self._native.group_send_many(messages)

    async def group_channels(self, group: str) -> list[str]:
        """Return the members of the group in no particular order."""
        _check_group(group)
        return await self._native.group_channels(group)

    # Administration

    async def flush(self) -> None:
        """Delete all messages and groups of the layer."""
        await self._native.flush()

    async def statistics(self, channel: str | None = None) -> dict[str, Any]:
        """Return the counters of a channel, or of all channels together."""
        if channel is not None:
            _check_channel(channel)
        return await self._native.statistics(channel)

    async def health(self) -> dict[str, Any]:
        """Return the state of the layer and of its servers."""
        return await self._native.health()

    async def close(self) -> None:
        """Return unread messages to their channels and close the connections.

        Calls that wait fail. The next call connects again.
        """
        await self._native.close()

    async def close_pools(self) -> None:
        """Close the connections, as the method of channels_redis does. The next call connects again."""
        await self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} prefix={self.prefix!r}>"


class RedisChannelLayer(_Layer):
    """A layer on Redis 7.0 or Valkey, in the native format of this package. It does not exchange messages with
    ``channels_redis``."""

    _kind = "native"


class ChannelsRedisLayer(_Layer):
    """A layer on Redis that exchanges messages with ``channels_redis.core.RedisChannelLayer``."""

    _kind = "channels_redis"


class PubSubChannelLayer(_Layer):
    """A layer on Redis that exchanges messages with ``channels_redis.pubsub.RedisPubSubChannelLayer``.

    Redis stores nothing. A message to a channel that is not received anywhere is lost, and groups are local to each
    process: add a channel in the process that receives it.
    """

    _kind = "pubsub"
    _prefix = "specific."


class MemoryChannelLayer(_Layer):
    """A layer inside this process, for tests and for sites with one process."""

    _kind = "memory"

    async def close_pools(self) -> None:
        """Do nothing: there are no connections, and the messages stay."""


def _number(text: str) -> float:
    """Return the number of seconds of an option, whole if it is."""
    seconds = float(text.removesuffix(" s"))
    return int(seconds) if seconds.is_integer() else seconds
