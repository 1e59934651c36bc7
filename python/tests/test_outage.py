"""Redis goes away and comes back."""

import asyncio

import pytest

from redis_server import RedisServer
from support import ARRIVES, host, receive, waiting

pytestmark = pytest.mark.layers("ours", "server")


@pytest.fixture
def server():
    """A server that keeps its data when it is killed."""
    server = RedisServer("appendonly yes", "appendfsync always")
    yield server
    server.close()


async def sent(send):
    """Repeats a send until it succeeds."""
    async with asyncio.timeout(ARRIVES):
        while True:
            try:
                return await send()
            except Exception:
                await asyncio.sleep(0.1)


async def test_a_receive_waits_through_an_outage(make_layer, server):
    """A receive of channels_redis fails, which ends the consumer and its WebSocket."""
    layer = make_layer(hosts=[host(server.url)], fallback="fail")
    channel = await layer.new_channel()
    task = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(0.2)
    server.kill()
    await asyncio.sleep(0.5)
    assert not task.done()
    server.start()

    async def until_it_arrives():
        while not task.done():
            await sent(lambda: layer.send(channel, {"type": "a"}))
            await asyncio.wait([task], timeout=0.3)

    await asyncio.wait_for(until_it_arrives(), ARRIVES)
    assert await task == {"type": "a"}


@pytest.mark.layers("stored")
async def test_a_message_that_was_stored_arrives_after_an_outage(make_layer, server, channel):
    layer = make_layer(hosts=[host(server.url)])
    await layer.send(channel, {"type": "a"})
    server.kill()
    server.start()
    assert await receive(layer, channel) == {"type": "a"}


@pytest.mark.layers("stored")
async def test_a_membership_outlives_an_outage(make_layer, server, group):
    layer = make_layer(hosts=[host(server.url)])
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    server.kill()
    server.start()
    await sent(lambda: layer.group_send(group, {"type": "a"}))
    assert await receive(layer, channel) == {"type": "a"}


@pytest.mark.layers("stored")
async def test_calls_fail_in_time_while_redis_is_away(make_layer, server, channel, group):
    layer = make_layer(hosts=[host(server.url)])
    local = await layer.new_channel()
    await layer.group_add(group, local)
    server.kill()
    for call in [
        layer.send(channel, {"type": "a"}),
        layer.group_send(group, {"type": "a"}),
        layer.group_add(group, local),
        layer.flush(),
    ]:
        # The error names the server.
        with pytest.raises(Exception, match="127.0.0.1"):
            await asyncio.wait_for(call, ARRIVES)


async def test_a_layer_is_made_while_redis_is_away(make_layer, server):
    server.kill()
    layer = make_layer(hosts=[host(server.url)], fallback="fail")
    with pytest.raises(Exception, match="127.0.0.1"):
        await asyncio.wait_for(layer.send("channel", {"type": "a"}), ARRIVES)
    server.start()
    channel = await sent(layer.new_channel)
    await sent(lambda: layer.send(channel, {"type": "a"}))
    assert await receive(layer, channel) == {"type": "a"}


@pytest.mark.layers("pubsub")
async def test_consumers_are_told_of_an_outage(make_layer, server):
    """channels_redis 4 accepts these options and ignores them."""
    layer = make_layer(hosts=[host(server.url)], on_disconnect="redis.away", on_reconnect="redis.back")
    channels = [await layer.new_channel() for _ in range(2)]
    await layer.send(channels[0], {"type": "a"})
    assert await receive(layer, channels[0]) == {"type": "a"}
    for change, notice in [(server.kill, "redis.away"), (server.start, "redis.back")]:
        consumers = [await waiting(layer, channel) for channel in channels]
        change()
        for consumer in consumers:
            assert await asyncio.wait_for(consumer, ARRIVES) == {"type": notice}
