"""Event loops and threads: a layer serves every loop of its process."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from support import ARRIVES, close, nothing_arrives, receive


def test_a_layer_is_made_without_a_loop(make_layer_sync):
    layer = make_layer_sync()

    async def main():
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "a"})
        assert await receive(layer, channel) == {"type": "a"}
        await close(layer)

    asyncio.run(main())


@pytest.mark.layers("stored")
def test_synchronous_code_sends_with_async_to_sync(make_layer_sync, channel):
    layer = make_layer_sync()
    for number in range(5):
        async_to_sync(layer.send)(channel, {"type": "a", "number": number})
    for number in range(5):
        assert async_to_sync(receive)(layer, channel) == {"type": "a", "number": number}
    async_to_sync(close)(layer)


async def test_synchronous_code_in_a_thread_sends_to_the_loop_of_its_caller(layer, group):
    channel = await layer.new_channel()
    await layer.group_add(group, channel)
    task = asyncio.create_task(layer.receive(channel))

    def view():
        async_to_sync(layer.group_send)(group, {"type": "a"})

    await sync_to_async(view)()
    assert await asyncio.wait_for(task, ARRIVES) == {"type": "a"}


@pytest.mark.layers("stored")
def test_one_loop_after_the_other_uses_a_layer(make_layer_sync, channel):
    layer = make_layer_sync()

    async def send(number):
        await layer.send(channel, {"type": "a", "number": number})

    for number in range(5):
        asyncio.run(send(number))
        assert asyncio.run(receive(layer, channel)) == {"type": "a", "number": number}
    asyncio.run(close(layer))


@pytest.mark.layers("ours")
def test_loops_in_several_threads_receive_at_once(make_layer_sync):
    """channels_redis fails: two event loops must not receive on one layer at once."""
    layer = make_layer_sync()
    threads, messages = 8, 200
    together = threading.Barrier(threads)

    async def main(number):
        channel = await layer.new_channel()
        together.wait(ARRIVES)
        received = []
        for at in range(messages):
            send = asyncio.create_task(layer.send(channel, {"type": "a", "at": at, "thread": number}))
            received.append(await receive(layer, channel))
            await send
        assert received == [{"type": "a", "at": at, "thread": number} for at in range(messages)]

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda number: asyncio.run(main(number)), range(threads)))
    asyncio.run(close(layer))


@pytest.mark.layers("ours")
def test_a_loop_sends_to_the_receiver_in_another_loop(make_layer_sync):
    layer = make_layer_sync()
    names, received = asyncio.run(layer.new_channel()), []
    ready = threading.Event()

    async def reader():
        task = asyncio.create_task(layer.receive(names))
        await asyncio.sleep(0.1)
        ready.set()
        received.append(await asyncio.wait_for(task, ARRIVES))

    thread = threading.Thread(target=lambda: asyncio.run(reader()))
    thread.start()
    ready.wait(ARRIVES)
    asyncio.run(layer.send(names, {"type": "a"}))
    thread.join(ARRIVES)
    assert received == [{"type": "a"}]
    asyncio.run(close(layer))


@pytest.mark.layers("ours")
def test_a_loop_that_ends_in_a_receive_takes_no_message_with_it(make_layer_sync, channel):
    layer = make_layer_sync()

    async def leave():
        asyncio.ensure_future(layer.receive(channel))
        await asyncio.sleep(0.1)

    for number in range(3):
        asyncio.run(leave())
        if "pubsub" not in type(layer).__name__.lower():
            asyncio.run(layer.send(channel, {"type": "a", "number": number}))
            assert asyncio.run(receive(layer, channel)) == {"type": "a", "number": number}
    asyncio.run(close(layer))


@pytest.mark.layers("ours")
def test_uvloop_works(make_layer_sync):
    import uvloop

    layer = make_layer_sync()

    async def main():
        channel = await layer.new_channel()
        await nothing_arrives(layer, channel)
        for number in range(50):
            await layer.send(channel, {"type": "a", "number": number})
        for number in range(50):
            assert (await receive(layer, channel))["number"] == number

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
        runner.run(close(layer))


class TestALoopForEachTest:
    """Each test has a loop of its own, and all share one layer, as with ``get_channel_layer`` in a test suite."""

    shared: dict = {}

    @pytest.mark.parametrize("number", range(5))
    @pytest.mark.layers("stored")
    async def test_the_layer_works_in_the_loop(self, make_layer_sync, layer_name, number):
        layer = self.shared.setdefault(layer_name, make_layer_sync())
        channel = await layer.new_channel()
        await layer.group_add("shared", channel)
        await layer.group_send("shared", {"type": "a", "number": number})
        assert await receive(layer, channel) == {"type": "a", "number": number}
        task = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0)
        task.cancel()
