"""What the tests share: waiting for messages with a deadline, and closing layers of any class."""

import asyncio

import pytest

#: How long a test waits for a message that arrives. Generous, because the machine may be busy.
ARRIVES = 20
#: How long a test waits for a message that does not arrive.
ABSENT = 0.3


def host(url):
    """A host as all layers accept it. By default redis-py 8 and later end a blocking read after 5 s."""
    return {"address": url, "socket_timeout": None}


async def close(layer):
    """Closes the connections of a layer of any class."""
    if hasattr(layer, "close"):
        await layer.close()
    elif hasattr(layer, "close_pools"):
        await layer.close_pools()
    else:
        # The pub/sub layer of channels_redis closes its connections only so.
        await layer.flush()


async def receive(layer, channel):
    return await asyncio.wait_for(layer.receive(channel), ARRIVES)


async def receive_all(layer, channel, count):
    return [await receive(layer, channel) for _ in range(count)]


async def nothing_arrives(layer, channel):
    try:
        message = await asyncio.wait_for(layer.receive(channel), ABSENT)
    except asyncio.TimeoutError:
        return
    pytest.fail(f"{channel} has {message}")


async def has_no_more(layer, channel):
    """Fails if a channel has a message from before this call. Messages of one process keep their order."""
    await layer.send(channel, {"type": "the last"})
    assert await receive(layer, channel) == {"type": "the last"}


async def waiting(layer, channel):
    """Starts a receive, and returns it as a task when it waits: then a pub/sub layer has subscribed."""
    task = asyncio.create_task(layer.receive(channel))
    await asyncio.sleep(ABSENT)
    assert not task.done()
    return task
