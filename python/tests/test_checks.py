"""The system checks of a site's channel layers."""

import re

import pytest
from django.test import override_settings

from channel_layer.checks import check_channel_layers


def found(backend="RedisChannelLayer", **config):
    entry = {"BACKEND": f"channel_layer.{backend}", "CONFIG": config}
    with override_settings(CHANNEL_LAYERS={"default": entry}):
        messages = check_channel_layers()
    assert all(message.obj == "CHANNEL_LAYERS['default']" for message in messages)
    return [(message.id, message.msg) for message in messages]


def ids(*arguments, **config):
    return [identifier for identifier, _ in found(*arguments, **config)]


@pytest.mark.parametrize(
    "backend", ["RedisChannelLayer", "ChannelsRedisLayer", "PubSubChannelLayer", "MemoryChannelLayer"]
)
def test_a_good_configuration_has_no_messages(backend):
    assert found(backend) == []
    assert found(backend, capacity=10_000, expiry=30, channel_capacity={"jobs.*": 5}) == []


def test_sites_without_these_layers_have_no_messages():
    for layers in [
        {},
        {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"capacity": 1}}},
        {"default": {"BACKEND": "no.such.Backend"}},
        {"default": {}},
    ]:
        with override_settings(CHANNEL_LAYERS=layers):
            assert check_channel_layers() == []


def test_an_option_that_cannot_be_honoured_is_an_error_before_the_first_use():
    ((identifier, text),) = found(hosts=[{"address": "redis://a", "credential_provider": object()}])
    assert identifier == "channel_layer.E001" and "hosts[0].credential_provider" in text
    ((identifier, text),) = found(capacities=5)
    assert identifier == "channel_layer.E001" and "capacities" in text


def test_settings_without_effect_are_named():
    host = {"address": "redis://127.0.0.1", "max_connections": 5}
    assert found(hosts=[host]) == [("channel_layer.I001", "hosts[0].max_connections has no effect.")]
    assert ids(serializer_format="json", random_prefix_length=8) == ["channel_layer.I001"] * 2
    assert ids("ChannelsRedisLayer", serializer_format="json") == []


def test_a_small_capacity_of_consumers_is_a_warning():
    assert ids(capacity=50) == ["channel_layer.W002"]
    assert ids("ChannelsRedisLayer", channel_capacity={re.compile("specific"): 50}) == ["channel_layer.W002"]
    assert ids(capacity=50, channel_capacity={"specific.*": 1000}) == []
    assert ids(channel_capacity={"jobs": 1}) == []
    assert ids("PubSubChannelLayer", capacity=100) == ["channel_layer.W001"]
    assert ids("PubSubChannelLayer", capacity=1000) == []


def test_a_pattern_for_text_after_the_exclamation_mark_is_a_warning():
    for pattern in [re.compile(r"^websocket.send\!.+"), "http.response!a*"]:
        assert ids(channel_capacity={pattern: 500}) == ["channel_layer.W003"]
        assert ids("ChannelsRedisLayer", channel_capacity={pattern: 500}) == []
    for pattern in [re.compile(r"^specific\..*!.*$"), "http.response!*", "jobs.[!a]*", "jobs"]:
        assert ids(channel_capacity={pattern: 500}) == []


def test_a_subclass_is_checked_as_its_base():
    import channel_layer

    class Own(channel_layer.RedisChannelLayer):
        pass

    channel_layer.OwnOfTheTest = Own
    try:
        assert ids("OwnOfTheTest", capacity=5) == ["channel_layer.W002"]
    finally:
        del channel_layer.OwnOfTheTest
