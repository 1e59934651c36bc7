"""System checks of the settings of a site's channel layers."""

import re
from collections.abc import Iterator

from channels.layers import BaseChannelLayer
from django.core.checks import CheckMessage, Error, Info, Warning
from django.core.exceptions import ImproperlyConfigured

from . import config
from .sites import ConfiguredLayer, configured_layers

#: The default of channels_redis. All consumers of a process share the capacity of its channel.
USUAL_CAPACITY = 100

#: Other defaults.
DEFAULTS = {"pubsub": 10_000}

#: A channel of a consumer. The native format counts messages by the part up to the exclamation mark.
CONSUMER_CHANNEL = "specific.0123456789abcdef!"


def check_channel_layers(app_configs=None, **kwargs) -> list[CheckMessage]:
    """Checks the layers of this package in ``CHANNEL_LAYERS``. Connects to no server."""
    messages = []
    for layer in configured_layers():
        if layer.is_ours and layer.kind is not None:
            for message in _check(layer):
                message.obj = f"CHANNEL_LAYERS[{layer.alias!r}]"
                messages.append(message)
    return messages


def _check(layer: ConfiguredLayer) -> Iterator[CheckMessage]:
    try:
        settings = config.options(layer.config, layer.kind)
        # The crate validates the options, and does not connect.
        layer.backend(**layer.config)
    except (ImproperlyConfigured, TypeError) as error:
        yield Error(str(error), id="channel_layer.E001")
        return
    for name in settings.ignored:
        yield Info(f"{name} has no effect.", hint="Remove it.", id="channel_layer.I001")
    yield from _check_capacity(layer)
    if layer.kind == "native":
        yield from _check_patterns(layer)


def _check_capacity(layer: ConfiguredLayer) -> Iterator[CheckMessage]:
    rules = BaseChannelLayer(capacity=layer.config.get("capacity") or DEFAULTS.get(layer.kind, USUAL_CAPACITY))
    rules.channel_capacity = rules.compile_capacities(layer.config.get("channel_capacity") or {})
    capacity = rules.get_capacity(CONSUMER_CHANNEL)
    if layer.kind == "pubsub":
        if capacity < USUAL_CAPACITY * 10:
            yield Warning(
                f"A consumer that has {capacity} unread messages loses the oldest one with each new message.",
                hint="channels_redis.pubsub ignores capacity. Remove the option here: the default is 10000.",
                id="channel_layer.W001",
            )
    elif capacity < USUAL_CAPACITY:
        yield Warning(
            f"All consumers of a process share {capacity} unread messages. Group messages beyond that are dropped.",
            hint='Raise it: "channel_capacity": {"specific.*": 10000}.',
            id="channel_layer.W002",
        )


def _check_patterns(layer: ConfiguredLayer) -> Iterator[CheckMessage]:
    """Capacities go by the name up to the ``!``. A pattern that needs more after it never matches."""
    for pattern in layer.config.get("channel_capacity") or {}:
        text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        # In a set of a glob, an exclamation mark negates.
        _, mark, rest = re.sub(r"\[[^\]]*\]", "", str(text)).partition("!")
        if mark and re.sub(r"\.\*|[*$]|\\Z", "", rest):
            yield Warning(
                f"channel_capacity: {text!r} matches no channel, because it needs text after the exclamation mark.",
                hint="The capacity of a process-local channel goes by its name up to the exclamation mark.",
                id="channel_layer.W003",
            )
