"""Shows the options of a site's channel layers and the state of their servers, as ``channel-layer doctor`` does."""

from collections.abc import Callable, Iterable

from django.core.exceptions import ImproperlyConfigured

from . import config
from .sites import ConfiguredLayer, configured_layer, configured_layers


def examine(aliases: Iterable[str], write: Callable[[str], object]) -> bool:
    """Examines the layers with these aliases, or all layers of the site. Writes the report.

    Returns whether messages arrive through every server of every layer. A layer of ``channels_redis`` is examined as
    the layer of this package with the same wire format.
    """
    layers = [configured_layer(alias) for alias in aliases] or list(configured_layers())
    if not layers:
        write("the settings have no channel layer that can be imported: set CHANNEL_LAYERS")
        return False
    # Not `all` of a generator: every layer is examined.
    return all([_examine(layer, write) for layer in layers])


def _examine(layer: ConfiguredLayer, write: Callable[[str], object]) -> bool:
    write(f"channel layer {layer.alias}: {layer.backend.__module__}.{layer.backend.__qualname__}")
    if layer.kind is None:
        write("neither a layer of channel_layer nor one of channels_redis")
        return False
    settings = config.options(layer.config, layer.kind)
    for name in settings.ignored:
        write(f"{name} has no effect")
    from . import _native

    try:
        text, healthy = _native.doctor(layer.kind, settings.json)
    except ValueError as error:
        raise ImproperlyConfigured(str(error)) from None
    write(text.rstrip("\n"))
    return healthy
