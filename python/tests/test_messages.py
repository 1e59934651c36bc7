"""Sending and receiving: values, order, waiting, expiry and capacity."""

import asyncio
import enum
import random
import re
from collections import OrderedDict, defaultdict, namedtuple
from datetime import datetime

import pytest
from channels.exceptions import ChannelFull
from django.utils.safestring import mark_safe

from support import nothing_arrives, receive, receive_all, waiting

Point = namedtuple("Point", "x y")


class Number(enum.IntEnum):
    SEVEN = 7


class Word(str, enum.Enum):
    HELLO = "hello"


async def echo(layer, message):
    channel = await layer.new_channel()
    await layer.send(channel, message)
    return await receive(layer, channel)


@pytest.mark.parametrize(
    "value",
    [
        "text",
        "",
        "ünïcode \U0001f600 \x00",
        b"",
        b"\x00\xff bytes",
        0,
        -1,
        2**63 - 1,
        -(2**63),
        1.5,
        -0.0,
        float("inf"),
        1e300,
        True,
        False,
        None,
        [],
        {},
        [1, "a", b"b", None, [True, [2.5]], {"c": {"d": []}}],
        {"a": {"b": {"c": [1, {"d": b"e"}]}}},
    ],
    ids=repr,
)
async def test_a_value_arrives_as_it_was_sent(layer, value):
    message = await echo(layer, {"type": "test", "value": value})
    assert message == {"type": "test", "value": value}
    assert type(message["value"]) is type(value)


async def test_a_boolean_stays_a_boolean_and_a_float_a_float(layer):
    message = await echo(layer, {"type": "a", "values": [True, 1, 1.0]})
    assert [type(value) for value in message["values"]] == [bool, int, float]


async def test_a_tuple_arrives_as_a_list(layer):
    message = await echo(layer, {"type": "a", "pair": (1, (2, 3)), "point": Point(1, 2)})
    assert message == {"type": "a", "pair": [1, [2, 3]], "point": [1, 2]}


async def test_subclasses_arrive_as_plain_values(layer):
    message = {"type": "a", "safe": mark_safe("<b>"), "ordered": OrderedDict(a=1), "default": defaultdict(int, b=2)}
    received = await echo(layer, message | {"number": Number.SEVEN, "word": Word.HELLO})
    assert received == message | {"number": 7, "word": "hello"}
    plain = {"type": str, "safe": str, "ordered": dict, "default": dict, "number": int, "word": str}
    assert {key: type(value) for key, value in received.items()} == plain
    assert type(await echo(layer, OrderedDict(type="a"))) is dict


async def test_a_message_of_two_megabytes_arrives(layer):
    message = {"type": "a", "bytes": random.randbytes(1 << 20), "text": "ä" * (1 << 19)}
    assert await echo(layer, message) == message


async def test_a_deep_message_arrives(layer):
    message = {"type": "a"}
    for _ in range(50):
        message = {"type": "a", "inner": message, "list": [[[message["type"]]]]}
    assert await echo(layer, message) == message


@pytest.mark.layers("server")
@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 1), {1, 2}, object(), 1j, print], ids=lambda value: type(value).__name__
)
async def test_a_value_without_a_form_is_a_type_error(layer, channel, value):
    with pytest.raises(TypeError):
        await layer.send(channel, {"type": "a", "key": value})


@pytest.mark.layers("ours")
@pytest.mark.parametrize("value", [datetime(2026, 1, 1), {1, 2}, {"deep": [object()]}, {5: 6}], ids=range(4))
async def test_the_type_error_names_the_key(layer, channel, group, value):
    """channels_redis sends integer keys, which make its receivers fail."""
    for call in [layer.send(channel, {"type": "a", "the key": value}), layer.group_send(group, {"the key": value})]:
        with pytest.raises(TypeError, match="the key"):
            await call


@pytest.mark.layers("ours")
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**30])
async def test_an_integer_over_64_bits_is_refused(layer, channel, value):
    """channels_redis carries integers up to 2^64 - 1."""
    with pytest.raises((TypeError, OverflowError), match="the key"):
        await layer.send(channel, {"type": "a", "the key": value})


@pytest.mark.layers("server")
async def test_json_carries_no_bytes(make_layer, layer_name):
    if layer_name == "native":
        # Its messages are MessagePack with any serializer.
        layer = make_layer(serializer_format="json")
        assert await echo(layer, {"type": "a", "bytes": b"b"}) == {"type": "a", "bytes": b"b"}
        return
    layer = make_layer(serializer_format="json")
    assert await echo(layer, {"type": "a", "list": [1, "ä", None, 1.5]}) == {"type": "a", "list": [1, "ä", None, 1.5]}
    with pytest.raises((TypeError, ValueError)):
        await layer.send(await layer.new_channel(), {"type": "a", "bytes": b"b"})


async def test_a_message_that_changes_after_the_send_arrives_as_it_was(layer):
    channel = await layer.new_channel()
    message = {"type": "a", "inner": {"list": [1]}}
    await layer.send(channel, message)
    message["inner"]["list"].append(2)
    message["more"] = True
    assert await receive(layer, channel) == {"type": "a", "inner": {"list": [1]}}


async def test_the_sent_dict_is_not_changed(layer, channel, group):
    message = {"type": "a", "inner": {"list": (1,)}}
    local = await layer.new_channel()
    await layer.group_add(group, local)
    for call in [layer.send(channel, message), layer.send(local, message), layer.group_send(group, message)]:
        await call
        assert message == {"type": "a", "inner": {"list": (1,)}}


@pytest.mark.layers("ours")
async def test_each_receiver_of_a_group_message_has_its_own_copy(layer, group):
    """channels_redis hands the same dict to all members in a process."""
    channels = [await layer.new_channel() for _ in range(2)]
    for channel in channels:
        await layer.group_add(group, channel)
    await layer.group_send(group, {"type": "a", "list": []})
    (await receive(layer, channels[0]))["list"].append("mine")
    assert await receive(layer, channels[1]) == {"type": "a", "list": []}


class TestOrder:
    async def test_messages_arrive_in_the_order_of_the_sends(self, layer):
        channel = await layer.new_channel()
        for number in range(50):
            await layer.send(channel, {"type": "a", "number": number})
        assert [message["number"] for message in await receive_all(layer, channel, 50)] == list(range(50))

    @pytest.mark.layers("stored")
    async def test_a_normal_channel_keeps_the_order_too(self, layer, channel):
        for number in range(50):
            await layer.send(channel, {"type": "a", "number": number})
        assert [message["number"] for message in await receive_all(layer, channel, 50)] == list(range(50))

    async def test_the_channels_of_a_process_are_apart(self, layer):
        channels = [await layer.new_channel() for _ in range(20)]
        for number, channel in enumerate(channels):
            await layer.send(channel, {"type": "a", "number": number})
        for number, channel in reversed(list(enumerate(channels))):
            assert await receive(layer, channel) == {"type": "a", "number": number}


class TestWaiting:
    async def test_a_receive_waits_for_its_message(self, layer):
        channel = await layer.new_channel()
        task = await waiting(layer, channel)
        await layer.send(channel, {"type": "a"})
        assert await asyncio.wait_for(task, 20) == {"type": "a"}

    async def test_many_channels_wait_at_once(self, layer):
        channels = [await layer.new_channel() for _ in range(50)]
        tasks = [asyncio.create_task(layer.receive(channel)) for channel in channels]
        for channel in channels:
            await layer.send(channel, {"type": "a", "channel": channel})
        received = await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert [message["channel"] for message in received] == channels

    async def test_a_general_channel_wakes_its_reader(self, layer, channel):
        task = await waiting(layer, channel)
        await layer.send(channel, {"type": "a"})
        assert await asyncio.wait_for(task, 20) == {"type": "a"}

    @pytest.mark.layers("server")
    async def test_another_process_can_send(self, layer, make_layer):
        channel = await layer.new_channel()
        await make_layer().send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}

    async def test_each_message_has_one_of_several_waiters(self, layer):
        channel = await layer.new_channel()
        tasks = [asyncio.create_task(layer.receive(channel)) for _ in range(5)]
        for number in range(5):
            await layer.send(channel, {"type": "a", "number": number})
        received = await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert sorted(message["number"] for message in received) == list(range(5))

    @pytest.mark.layers("stored", "server")
    async def test_each_message_has_one_of_several_workers(self, make_layer, channel):
        one, two = make_layer(), make_layer()
        tasks = [await waiting(one, channel), await waiting(two, channel)]
        for number in range(2):
            await one.send(channel, {"type": "a", "number": number})
        received = await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert sorted(message["number"] for message in received) == [0, 1]
        await nothing_arrives(one, channel)


class TestTimeouts:
    async def test_a_receive_times_out(self, layer):
        await nothing_arrives(layer, await layer.new_channel())

    @pytest.mark.layers("stored")
    async def test_a_message_after_a_timeout_waits_for_the_next_receive(self, layer, channel):
        """The pub/sub layer of channels_redis drops its subscription when a receive is cancelled."""
        for name in [channel, await layer.new_channel()]:
            await nothing_arrives(layer, name)
            await layer.send(name, {"type": "a"})
            assert await receive(layer, name) == {"type": "a"}
            await nothing_arrives(layer, name)

    @pytest.mark.layers("pubsub")
    async def test_a_message_after_a_timeout_waits_for_the_next_receive_on_pubsub(self, layer):
        channel = await layer.new_channel()
        await nothing_arrives(layer, channel)
        await layer.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}

    async def test_the_timeout_of_one_channel_leaves_the_others_alone(self, layer):
        patient, hasty = await layer.new_channel(), await layer.new_channel()
        task = await waiting(layer, patient)
        await nothing_arrives(layer, hasty)
        await layer.send(patient, {"type": "a"})
        assert await asyncio.wait_for(task, 20) == {"type": "a"}

    @pytest.mark.layers("ours")
    @pytest.mark.parametrize("kind", ["local", "general"])
    async def test_receives_that_are_cancelled_at_any_moment_lose_nothing(self, make_layer, channel, kind):
        """channels_redis loses and doubles messages whose receive is cancelled."""
        # More than the messages, because a consumer that falls behind by its capacity loses the oldest.
        layer = make_layer(capacity=1000)
        name = await layer.new_channel() if kind == "local" else channel
        if kind == "general":
            # A pub/sub layer subscribes with the first receive.
            await nothing_arrives(layer, name)
        chance, received = random.Random(1), []

        async def send():
            for number in range(500):
                while True:
                    try:
                        await layer.send(name, {"type": "a", "number": number})
                        break
                    except ChannelFull:
                        await asyncio.sleep(0.001)

        async def read():
            while len(received) < 500:
                task = asyncio.create_task(layer.receive(name))
                for _ in range(chance.randrange(6)):
                    await asyncio.sleep(chance.choice([0, 0, 0.0005]))
                task.cancel()
                await asyncio.wait([task])
                if not task.cancelled():
                    received.append(task.result()["number"])

        await asyncio.wait_for(asyncio.gather(send(), read()), 60)
        assert received == list(range(500))


@pytest.mark.layers("stored")
class TestCapacity:
    @pytest.mark.parametrize("local", [True, False])
    async def test_a_send_to_a_full_channel_is_refused(self, make_layer, channel, local):
        layer = make_layer(capacity=3)
        name = await layer.new_channel() if local else channel
        for number in range(3):
            await layer.send(name, {"type": "a", "number": number})
        with pytest.raises(ChannelFull):
            await layer.send(name, {"type": "a"})
        assert [message["number"] for message in await receive_all(layer, name, 3)] == [0, 1, 2]
        await layer.send(name, {"type": "a", "number": 3})
        assert (await receive(layer, name))["number"] == 3

    async def test_the_first_matching_rule_decides(self, make_layer, channel):
        rules = OrderedDict([(re.compile(r"jobs\.[0-9a-f]+\Z"), 2), ("jobs.*", 1), ("few.*", 1)])
        layer = make_layer(capacity=4, channel_capacity=rules)
        for name, capacity in [(channel, 2), (f"{channel}.z", 1), (f"few.{channel}", 1), (f"many.{channel}", 4)]:
            for _ in range(capacity):
                await layer.send(name, {"type": "a"})
            with pytest.raises(ChannelFull):
                await layer.send(name, {"type": "a"})

    @pytest.mark.layers("server")
    async def test_get_capacity_is_public(self, make_layer):
        layer = make_layer(capacity=4, channel_capacity={"few.*": 1, re.compile("some"): 2})
        assert [layer.get_capacity(name) for name in ("few.a", "some.thing", "others")] == [1, 2, 4]
        assert layer.capacity == 4

    async def test_a_rule_applies_to_the_channels_of_a_process(self, make_layer):
        layer = make_layer(capacity=100, channel_capacity={"specific.*": 2})
        name = await layer.new_channel()
        for _ in range(2):
            await layer.send(name, {"type": "a"})
        with pytest.raises(ChannelFull):
            await layer.send(name, {"type": "a"})


@pytest.mark.layers("stored")
class TestExpiry:
    async def test_a_message_expires(self, make_layer, channel):
        layer = make_layer(expiry=1)
        for name in [channel, await layer.new_channel()]:
            await layer.send(name, {"type": "old"})
            await asyncio.sleep(1.6)
            await nothing_arrives(layer, name)
            await layer.send(name, {"type": "new"})
            assert await receive(layer, name) == {"type": "new"}

    async def test_expired_messages_leave_room(self, make_layer, channel):
        layer = make_layer(expiry=1, capacity=1)
        await layer.send(channel, {"type": "old"})
        await asyncio.sleep(2.1)
        await layer.send(channel, {"type": "new"})
        assert await receive(layer, channel) == {"type": "new"}

    @pytest.mark.layers("ours")
    async def test_a_message_expires_on_a_busy_channel(self, make_layer, channel):
        """channels_redis prolongs the life of all messages of a channel with each send."""
        layer = make_layer(expiry=1.5)
        await layer.send(channel, {"type": "old"})
        await asyncio.sleep(1)
        await layer.send(channel, {"type": "new"})
        await asyncio.sleep(1)
        assert await receive(layer, channel) == {"type": "new"}
