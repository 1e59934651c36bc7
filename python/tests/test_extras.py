"""What the layers of this package have beyond those of channels_redis."""

import asyncio

import pytest
from channels.exceptions import ChannelFull

from support import receive, receive_all

pytestmark = pytest.mark.layers("ours")


async def test_send_many_sends_to_many_channels(layer):
    channels = [await layer.new_channel() for _ in range(5)]
    messages = [(channel, {"type": "a", "number": number}) for number in range(4) for channel in channels]
    assert await layer.send_many(messages) == [None] * 20
    for channel in channels:
        assert [message["number"] for message in await receive_all(layer, channel, 4)] == list(range(4))
    assert await layer.send_many([]) == []


@pytest.mark.layers("stored")
async def test_send_many_names_each_message_that_does_not_fit(make_layer, channel):
    layer = make_layer(capacity=2)
    other = f"other.{channel}"
    results = await layer.send_many([(channel, {"type": "a"})] * 4 + [(other, {"type": "b"})])
    assert [type(result) for result in results] == [type(None)] * 2 + [ChannelFull] * 2 + [type(None)]
    assert await receive(layer, other) == {"type": "b"}


async def test_send_many_refuses_a_bad_message_before_it_sends_any(layer):
    channel = await layer.new_channel()
    for bad in [(channel, {"key": object()}), ("bad name", {"type": "a"})]:
        with pytest.raises(TypeError):
            await layer.send_many([(channel, {"type": "a"}), bad])
    await layer.send(channel, {"type": "only"})
    assert await receive(layer, channel) == {"type": "only"}


async def test_group_send_many_sends_to_many_groups(layer, group):
    members = {}
    for number in range(4):
        members[f"{group}.{number}"] = channel = await layer.new_channel()
        await layer.group_add(f"{group}.{number}", channel)
    assert await layer.group_send_many([(name, {"type": "a", "group": name}) for name in members]) == [None] * 4
    for name, channel in members.items():
        assert await receive(layer, channel) == {"type": "a", "group": name}


async def test_group_channels_are_the_members(layer, group):
    assert await layer.group_channels(group) == []
    channels = [await layer.new_channel() for _ in range(3)]
    for channel in channels:
        await layer.group_add(group, channel)
    assert sorted(await layer.group_channels(group)) == sorted(channels)
    await layer.group_discard(group, channels[0])
    assert sorted(await layer.group_channels(group)) == sorted(channels[1:])


@pytest.mark.layers("stored")
async def test_statistics_count_the_messages_of_a_channel(layer, channel, layer_name):
    for _ in range(3):
        await layer.send(channel, {"type": "a"})
    if layer_name != "core":
        # The format of channels_redis has no counters.
        async with asyncio.timeout(20):
            # Counters are written once a second.
            while (await layer.statistics(channel))["messages_count"] != 3:
                await asyncio.sleep(0.1)
    statistics = await layer.statistics(channel)
    assert statistics["messages_pending"] == 3
    assert (await layer.statistics())["messages_pending"] >= 3


async def test_health_is_the_state_of_the_servers(layer, layer_name, redis):
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a"})
    async with asyncio.timeout(20):
        while (health := await layer.health())["status"] not in ("healthy", "disabled"):
            await asyncio.sleep(0.1)
    assert (str(redis.port) in str(health)) == (layer_name != "memory")


@pytest.mark.layers("server", "stored")
async def test_a_close_returns_unread_messages(make_layer, channel):
    layer, other = make_layer(), make_layer()
    task = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.2)
    for number in range(20):
        await other.send(channel, {"type": "a", "number": number})
    assert await asyncio.wait_for(task, 20) == {"type": "a", "number": 0}
    await layer.close()
    assert [message["number"] for message in await receive_all(other, channel, 19)] == list(range(1, 20))


@pytest.mark.layers("ours")
async def test_a_close_ends_the_calls_that_wait(layer, channel):
    import channel_layer

    tasks = [asyncio.create_task(layer.receive(name)) for name in (channel, await layer.new_channel())]
    await asyncio.sleep(0.2)
    await layer.close()
    for task in tasks:
        with pytest.raises(channel_layer.ChannelLayerError):
            await asyncio.wait_for(task, 20)


async def test_a_layer_works_after_a_close(layer):
    for _ in range(3):
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        await layer.close()
        await layer.close()


@pytest.mark.layers("server")
async def test_no_form_of_a_layer_shows_a_password(make_layer):
    layer = make_layer(hosts=["redis://user:secret@127.0.0.1:1"], symmetric_encryption_keys=["secret" * 6])
    assert "secret" not in repr(layer) + str(layer)


async def test_a_message_beyond_the_limit_is_refused(make_layer, channel):
    import channel_layer

    layer = make_layer(max_message_size=2000)
    with pytest.raises(channel_layer.MessageError, match="2000"):
        await layer.send(channel, {"type": "a", "bytes": b"x" * 3000})
