"""Groups: membership, group sends, and the expiry of memberships."""

import asyncio

import pytest

from support import has_no_more, nothing_arrives, receive, receive_all


async def members(layer, group, count):
    channels = [await layer.new_channel() for _ in range(count)]
    for channel in channels:
        await layer.group_add(group, channel)
    return channels


async def test_a_group_message_reaches_every_member_once(layer, group):
    channels = await members(layer, group, 10)
    outsider = await layer.new_channel()
    await layer.group_send(group, {"type": "a", "text": "hi"})
    for channel in channels:
        assert await receive(layer, channel) == {"type": "a", "text": "hi"}
    for channel in [*channels, outsider]:
        await has_no_more(layer, channel)


async def test_a_group_without_members_takes_messages(layer, group):
    await layer.group_send(group, {"type": "a"})


async def test_a_channel_that_is_added_twice_gets_one_message(layer, group):
    (channel,) = await members(layer, group, 1)
    await layer.group_add(group, channel)
    await layer.group_send(group, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}
    await has_no_more(layer, channel)


async def test_a_discarded_channel_gets_no_message(layer, group):
    stays, leaves = await members(layer, group, 2)
    await layer.group_discard(group, leaves)
    await layer.group_send(group, {"type": "a"})
    assert await receive(layer, stays) == {"type": "a"}
    await has_no_more(layer, leaves)
    await layer.group_add(group, leaves)
    await layer.group_send(group, {"type": "b"})
    assert await receive(layer, leaves) == {"type": "b"}


async def test_a_channel_that_is_no_member_can_be_discarded(layer, group):
    await layer.group_discard(group, await layer.new_channel())
    (channel,) = await members(layer, group, 1)
    await layer.group_discard(group, await layer.new_channel())
    await layer.group_discard(group, channel)
    await layer.group_discard(group, channel)


async def test_a_channel_may_be_in_several_groups(layer, group):
    channel = await layer.new_channel()
    for name in (f"{group}.one", f"{group}.two"):
        await layer.group_add(name, channel)
    await layer.group_send(f"{group}.one", {"type": "one"})
    await layer.group_send(f"{group}.two", {"type": "two"})
    received = await receive_all(layer, channel, 2)
    assert sorted(message["type"] for message in received) == ["one", "two"]
    await layer.group_discard(f"{group}.one", channel)
    await layer.group_send(f"{group}.one", {"type": "one"})
    await layer.group_send(f"{group}.two", {"type": "two"})
    assert await receive(layer, channel) == {"type": "two"}


async def test_group_messages_keep_their_order_among_sends(layer, group):
    (channel,) = await members(layer, group, 1)
    for number in range(0, 40, 2):
        await layer.group_send(group, {"type": "a", "number": number})
        await layer.send(channel, {"type": "a", "number": number + 1})
    assert [message["number"] for message in await receive_all(layer, channel, 40)] == list(range(40))


@pytest.mark.layers("server")
async def test_a_group_spans_processes(make_layer, group):
    layers = [make_layer() for _ in range(3)]
    channels = [(layer, channel) for layer in layers for channel in await members(layer, group, 2)]
    await layers[0].group_send(group, {"type": "a"})
    for layer, channel in channels:
        assert await receive(layer, channel) == {"type": "a"}


@pytest.mark.layers("stored", "server")
async def test_another_process_can_change_a_membership(make_layer, group):
    layer, other = make_layer(), make_layer()
    channel = await layer.new_channel()
    await other.group_add(group, channel)
    await other.group_send(group, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}
    await other.group_discard(group, channel)
    await other.group_send(group, {"type": "a"})
    await has_no_more(layer, channel)


@pytest.mark.layers("published")
async def test_pubsub_adds_only_the_channels_of_its_process(layer, make_layer, group):
    with pytest.raises(RuntimeError, match="on channels that exist in-process"):
        await layer.group_add(group, await make_layer().new_channel())


@pytest.mark.layers("stored")
async def test_a_normal_channel_may_be_a_member(layer, group, channel):
    await layer.group_add(group, channel)
    await layer.group_send(group, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}


@pytest.mark.layers("stored")
async def test_a_group_send_drops_what_does_not_fit(make_layer, group):
    layer = make_layer(capacity=2)
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    for number in range(5):
        await layer.group_send(group, {"type": "a", "number": number})
    assert [message["number"] for message in await receive_all(layer, channel, 2)] == [0, 1]
    await has_no_more(layer, channel)


@pytest.mark.layers("stored")
async def test_a_membership_expires(make_layer, group):
    layer = make_layer(group_expiry=1)
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    await asyncio.sleep(2.1)
    await layer.group_send(group, {"type": "a"})
    await has_no_more(layer, channel)


@pytest.mark.layers("ours", "stored")
async def test_adding_again_prolongs_a_membership(make_layer, group):
    """channels_redis rounds times to seconds."""
    layer = make_layer(group_expiry=2)
    channel = await layer.new_channel()
    for _ in range(3):
        await layer.group_add(group, channel)
        await asyncio.sleep(1)
    await layer.group_send(group, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}


class TestFlush:
    async def test_a_flush_removes_groups(self, layer, group):
        (channel,) = await members(layer, group, 1)
        await layer.flush()
        await layer.group_send(group, {"type": "a"})
        await nothing_arrives(layer, channel)

    @pytest.mark.layers("stored")
    async def test_a_flush_removes_messages(self, layer, channel):
        local = await layer.new_channel()
        for name in (channel, local):
            await layer.send(name, {"type": "a"})
        await layer.flush()
        for name in (channel, local):
            await nothing_arrives(layer, name)

    async def test_the_layer_works_after_a_flush(self, layer, group):
        await layer.flush()
        (channel,) = await members(layer, group, 1)
        await layer.group_send(group, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}

    @pytest.mark.layers("stored", "server")
    async def test_a_flush_leaves_other_prefixes_alone(self, make_layer, channel, prefix):
        layer, other = make_layer(), make_layer(prefix=f"other{prefix}")
        await other.send(channel, {"type": "a"})
        await layer.flush()
        assert await receive(other, channel) == {"type": "a"}
