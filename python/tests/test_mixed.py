"""Layers of this package beside layers of channels_redis with the same wire format, in both directions."""

import asyncio
import re

import pytest
from django.utils.module_loading import import_string

from conftest import LAYERS
from support import close, host, nothing_arrives, receive, receive_all, waiting

FORMATS = {"stored": ("channels_redis", "core"), "published": ("channels_redis_pubsub", "pubsub")}

CONFIGS = {
    "default": {},
    "json": {"serializer_format": "json"},
    "encrypted": {"symmetric_encryption_keys": ["k" * 32, "o" * 32]},
    "encrypted json": {"serializer_format": "json", "symmetric_encryption_keys": ["k" * 32]},
}

MESSAGE = {"type": "test.message", "text": "ünï", "list": [1, -2, 2.5, True, None], "map": {"a": {"b": []}}}


@pytest.fixture(params=FORMATS)
def wire_format(request):
    return request.param


@pytest.fixture(params=["to ours", "to theirs"])
def towards(request):
    return request.param


@pytest.fixture
async def pair(redis, prefix, wire_format, towards):
    """Makes a sending and a receiving layer, one of channels_redis and one of this package."""
    made = []

    def make(**config):
        config = {"hosts": [host(redis.url)], "prefix": prefix} | config
        theirs, ours = [import_string(LAYERS[name][0])(**config) for name in FORMATS[wire_format]]
        made.extend([theirs, ours])
        return (theirs, ours) if towards == "to ours" else (ours, theirs)

    yield make
    for layer in made:
        await close(layer)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
async def test_a_message_arrives(pair, config):
    sender, receiver = pair(**config)
    channel = await receiver.new_channel()
    for _ in range(3):
        await sender.send(channel, MESSAGE)
    assert await receive_all(receiver, channel, 3) == [MESSAGE] * 3


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
async def test_a_group_message_arrives(pair, group, config):
    sender, receiver = pair(**config)
    channels = [await receiver.new_channel() for _ in range(3)]
    for channel in channels:
        await receiver.group_add(group, channel)
    await sender.group_send(group, MESSAGE)
    for channel in channels:
        assert await receive(receiver, channel) == MESSAGE
    await receiver.group_discard(group, channels[0])
    await sender.group_send(group, {"type": "second"})
    for channel in channels[1:]:
        assert await receive(receiver, channel) == {"type": "second"}
    await nothing_arrives(receiver, channels[0])


async def test_a_general_channel_is_shared(pair, channel):
    sender, receiver = pair()
    task = await waiting(receiver, channel)
    await sender.send(channel, MESSAGE)
    assert await asyncio.wait_for(task, 20) == MESSAGE


async def test_bytes_arrive_in_message_pack(pair):
    sender, receiver = pair()
    channel = await receiver.new_channel()
    await sender.send(channel, {"type": "a", "bytes": b"\x00\xff"})
    assert await receive(receiver, channel) == {"type": "a", "bytes": b"\x00\xff"}


@pytest.mark.parametrize("wire_format", ["stored"], indirect=True)
class TestStored:
    async def test_the_members_of_both_are_in_one_group(self, pair, group):
        one, two = pair()
        channels = [(layer, await layer.new_channel()) for layer in (one, two)]
        for layer, channel in channels:
            # Each adds the channel of the other.
            await (two if layer is one else one).group_add(group, channel)
        await one.group_send(group, MESSAGE)
        for layer, channel in channels:
            assert await receive(layer, channel) == MESSAGE

    async def test_both_keep_the_same_capacity(self, pair, channel):
        from channels.exceptions import ChannelFull

        one, two = pair(capacity=5, channel_capacity={re.compile("few"): 2})
        for name, capacity in [(channel, 5), (f"few.{channel}", 2)]:
            for number in range(capacity):
                await (one if number % 2 else two).send(name, {"type": "a"})
            for layer in (one, two):
                with pytest.raises(ChannelFull):
                    await layer.send(name, {"type": "a"})

    @pytest.mark.parametrize("length", [0, 8, 20])
    async def test_both_use_the_same_random_prefix(self, pair, length):
        sender, receiver = pair(random_prefix_length=length)
        channel = await receiver.new_channel()
        await sender.send(channel, MESSAGE)
        assert await receive(receiver, channel) == MESSAGE

    async def test_a_flush_of_one_empties_the_other(self, pair, channel, group):
        one, two = pair()
        local = await two.new_channel()
        await two.group_add(group, local)
        await two.send(channel, MESSAGE)
        await one.flush()
        await two.group_send(group, MESSAGE)
        await nothing_arrives(two, channel)
        await nothing_arrives(two, local)
