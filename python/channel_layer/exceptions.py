"""The exceptions of the layers, besides ``channels.exceptions.ChannelFull`` and the ``TypeError`` of a bad name."""


class ChannelLayerError(Exception):
    """A call of a channel layer failed."""

    #: Whether the same call may succeed later without a change.
    transient: bool = False
    #: Whether the call may have taken effect although it failed. Repeating it may then send a message twice.
    may_have_run: bool = False


class RedisError(ChannelLayerError, ConnectionError):
    """A Redis server failed or is unreachable."""


class MessageError(ChannelLayerError, ValueError):
    """A message is too large or cannot be encoded; it was not sent."""
