"""Names of channels and groups, and what a layer says of invalid ones."""

import pytest
from channels.layers import BaseChannelLayer

pytestmark = pytest.mark.layers("validating")

INVALID_CHANNELS = ["", "with space", "ümlaut", "a!b!c", "a/b", "a?b", "x" * 100, b"bytes", 5, None]
INVALID_GROUPS = ["", "with space", "a!b", "x" * 100, b"bytes", 5, None]


async def calls(layer, channel, group):
    """Every call with the name of a channel or a group."""
    yield layer.send(channel, {"type": "a"})
    yield layer.receive(channel)
    yield layer.group_add(group, channel)
    yield layer.group_discard(group, channel)


@pytest.mark.parametrize("channel", INVALID_CHANNELS)
async def test_an_invalid_channel_is_a_type_error_of_channels(layer, channel):
    async for call in calls(layer, channel, "group"):
        with pytest.raises(TypeError) as refused:
            await call
        assert str(refused.value) == BaseChannelLayer.invalid_name_error.format("Channel")


@pytest.mark.parametrize("group", INVALID_GROUPS)
async def test_an_invalid_group_is_a_type_error_of_channels(layer, group):
    for call in [
        layer.group_add(group, "channel"),
        layer.group_discard(group, "channel"),
        layer.group_send(group, {"type": "a"}),
    ]:
        with pytest.raises(TypeError) as refused:
            await call
        assert str(refused.value) == BaseChannelLayer.invalid_name_error.format("Group")


@pytest.mark.layers("ours")
@pytest.mark.parametrize("channel", ["a!ä", "a\n"])
async def test_a_name_that_only_the_regex_of_channels_accepts_is_a_type_error_too(layer, channel):
    for call in [layer.send(channel, {"type": "a"}), layer.receive(channel), layer.group_add("group", channel)]:
        with pytest.raises(TypeError):
            await call


@pytest.mark.layers("stored")
@pytest.mark.parametrize("channel", ["a", "A.b-c_9", "x" * 99, "other.process!client"])
async def test_valid_names_are_accepted(layer, channel):
    await layer.send(channel, {"type": "a"})
    await layer.group_add("x" * 99, channel)
    await layer.group_send("x" * 99, {"type": "a"})
    await layer.group_discard("x" * 99, channel)


async def test_the_validators_of_channels_are_methods(layer):
    assert isinstance(layer, BaseChannelLayer)
    assert layer.MAX_NAME_LENGTH == 100
    assert layer.require_valid_channel_name("a!b")
    assert layer.require_valid_group_name("a")
    assert layer.valid_channel_names(["a", "b!"], receive=True)
    with pytest.raises(TypeError, match="must end at the !"):
        layer.require_valid_channel_name("a!b", receive=True)
    assert layer.non_local_name("a!b") == "a!"
    assert layer.non_local_name("a") == "a"


@pytest.mark.layers("stored")
async def test_a_message_must_be_a_dict(layer, channel):
    for message in [None, "text", ["list"], 5]:
        with pytest.raises(AssertionError):
            await layer.send(channel, message)


@pytest.mark.layers("ours")
async def test_a_message_to_a_group_must_be_a_dict(layer, group):
    for message in [None, "text", ["list"], 5]:
        with pytest.raises(AssertionError):
            await layer.group_send(group, message)


@pytest.mark.layers("stored")
async def test_the_key_of_the_routing_is_reserved(layer, channel):
    with pytest.raises(AssertionError):
        await layer.send(channel, {"type": "a", "__asgi_channel__": "b"})


async def test_the_extensions_are_named(layer):
    assert {"groups", "flush"} <= set(layer.extensions)


class TestNewChannel:
    async def test_names_are_valid_and_differ(self, layer):
        names = {await layer.new_channel() for _ in range(100)}
        assert len(names) == 100
        assert layer.valid_channel_names(list(names))

    @pytest.mark.layers("stored")
    async def test_a_name_begins_with_the_prefix(self, layer):
        assert (await layer.new_channel()).startswith("specific.")
        assert (await layer.new_channel("chat")).startswith("chat.")
        assert (await layer.new_channel(prefix="chat")).startswith("chat.")

    @pytest.mark.layers("published")
    async def test_a_name_of_pubsub_begins_with_the_prefix_of_the_layer(self, layer, prefix):
        assert (await layer.new_channel()).startswith(f"{prefix}specific.")
        assert (await layer.new_channel("chat.")).startswith(f"{prefix}chat.")

    @pytest.mark.layers("stored")
    async def test_the_channels_of_a_process_share_their_non_local_part(self, layer, make_layer):
        one, two, other = await layer.new_channel(), await layer.new_channel(), await make_layer().new_channel()
        assert layer.non_local_name(one) == layer.non_local_name(two) != layer.non_local_name(other)
