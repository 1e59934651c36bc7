"""Calls that end in any way leave no memory and no descriptors behind."""

import asyncio
import gc
import os
import tracemalloc

import pytest

from support import ABSENT, receive

pytestmark = pytest.mark.layers("ours")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def resident():
    """The memory of the process in bytes."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def time_out(layer, channels, count):
    """Lets ``count`` receives on each channel time out."""

    async def once(channel):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive(channel), 0.001)

    for _ in range(count):
        await asyncio.gather(*(once(channel) for channel in channels))


async def test_receives_that_time_out_leak_nothing(layer):
    channels = [await layer.new_channel() for _ in range(100)]
    await time_out(layer, channels, 20)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0], resident(), descriptors()
    await time_out(layer, channels, 100)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0], resident(), descriptors()
    tracemalloc.stop()
    # Far below what 10,000 futures take, and above the noise of the interpreter.
    assert after[0] - before[0] < 500_000
    assert after[1] - before[1] < 8_000_000
    assert after[2] == before[2]
    await layer.send(channels[0], {"type": "a"})
    assert await receive(layer, channels[0]) == {"type": "a"}


async def test_consumers_that_come_and_go_leak_nothing(make_layer, group):
    # A pub/sub layer keeps a channel for that long after its last receive.
    layer = make_layer(expiry=1)

    async def visit():
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        task = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        await layer.group_discard(group, channel)
        task.cancel()
        await asyncio.wait([task])

    async def visits(count):
        for _ in range(count):
            await asyncio.gather(*(visit() for _ in range(50)))

    async def usage():
        # Until the layer has let go of the channels.
        await asyncio.sleep(2.5)
        gc.collect()
        return resident(), descriptors()

    await visits(60)
    before = await usage()
    await visits(60)
    after = await usage()
    assert after[0] - before[0] < 8_000_000
    assert after[1] == before[1]


def test_loops_that_close_leave_no_descriptor(make_layer_sync):
    layer = make_layer_sync()

    async def main():
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "a"})
        await receive(layer, channel)
        asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0)

    asyncio.run(main())
    gc.collect()
    before = descriptors()
    for _ in range(50):
        asyncio.run(main())
    gc.collect()
    assert descriptors() <= before + 1
    asyncio.run(layer.close())


def test_a_layer_that_is_closed_leaves_nothing(make_layer_sync):
    async def main():
        layer = make_layer_sync()
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "a"})
        await receive(layer, channel)
        await layer.close()
        await asyncio.sleep(ABSENT / 10)

    asyncio.run(main())
    gc.collect()
    before = descriptors(), len(os.listdir("/proc/self/task"))
    for _ in range(10):
        asyncio.run(main())
    gc.collect()
    assert descriptors() <= before[0] + 1
    assert len(os.listdir("/proc/self/task")) <= before[1] + 1


async def test_every_call_can_be_cancelled_at_once(layer, group):
    channel = await layer.new_channel()
    for _ in range(20):
        for call in [
            lambda: layer.send(channel, {"type": "cancelled"}),
            lambda: layer.group_add(group, channel),
            lambda: layer.group_send(group, {"type": "cancelled"}),
            lambda: layer.group_discard(group, channel),
            lambda: layer.receive(channel),
            layer.new_channel,
        ]:
            for steps in range(4):
                task = asyncio.create_task(call())
                for _ in range(steps):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled() or task.exception() is None or "full" in str(task.exception()).lower()
    await layer.group_discard(group, channel)
    await layer.flush()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a"})
    assert await receive(layer, channel) == {"type": "a"}
