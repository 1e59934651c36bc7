"""The Django app, for ``INSTALLED_APPS``. It adds system checks and the command ``channel_layer_doctor``."""

from django.apps import AppConfig
from django.core.checks import register


class ChannelLayerConfig(AppConfig):
    name = "channel_layer"
    label = "channel_layer"
    verbose_name = "Channel layer"

    def ready(self):
        from .checks import check_channel_layers

        register(check_channel_layers, "channels")
