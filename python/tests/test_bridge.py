"""The bridge between asyncio and the native module: cancellation, order, loops, threads, forks, the end of Python."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest
import uvloop

from channel_layer import MemoryChannelLayer, MessageError

from support import ABSENT, ARRIVES, receive

ours = pytest.mark.layers("ours")


async def started(call):
    """Starts a call as a task, and lets it come as far as it can."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    return task


async def ended(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def numbers(first, last):
    return [{"type": "a", "number": number} for number in range(first, last)]


@ours
async def test_a_receive_that_is_cancelled_when_its_message_arrives_loses_nothing_and_keeps_the_order(layer):
    channel = await layer.new_channel()
    received = []
    for round_ in range(100):
        tasks = [await started(layer.receive(channel)) for _ in range(3)]
        for message in numbers(3 * round_, 3 * round_ + 3):
            await layer.send(channel, message)
        # At another moment in every round: before, while and after the messages arrive.
        for _ in range(round_ % 7):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        received += [task.result() for task in tasks if not task.cancelled()]
        while len(received) < 3 * round_ + 3:
            received.append(await receive(layer, channel))
    assert received == numbers(0, 300)


@pytest.mark.layers("ours", "stored")
async def test_a_cancelled_receive_of_a_normal_channel_leaves_the_order(layer, channel):
    for round_ in range(30):
        task = await started(layer.receive(channel))
        for message in numbers(2 * round_, 2 * round_ + 2):
            await layer.send(channel, message)
        for _ in range(round_ % 5):
            await asyncio.sleep(0)
        await ended(task)
        got = [] if task.cancelled() else [task.result()]
        while len(got) < 2:
            got.append(await receive(layer, channel))
        assert got == numbers(2 * round_, 2 * round_ + 2)


async def test_a_task_that_is_cancelled_after_its_message_came_gives_it_back():
    layer = MemoryChannelLayer()
    channel = await layer.new_channel()
    tasks = [await started(layer.receive(channel)) for _ in range(3)]
    await layer.send_many([(channel, message) for message in numbers(0, 3)])
    # The loop completes the futures in one step. The tasks run in the next one, and are cancelled before.
    cancelled = asyncio.get_running_loop().create_future()

    def cancel():
        for task in reversed(tasks):
            task.cancel()
        cancelled.set_result(None)

    while not all(task._fut_waiter is None or task._fut_waiter.done() for task in tasks):
        await asyncio.sleep(0)
    cancel()
    await cancelled
    await asyncio.wait(tasks)
    received = [task.result() for task in tasks if not task.cancelled()]
    while len(received) < 3:
        received.append(await receive(layer, channel))
    assert received == numbers(0, 3)


@pytest.mark.layers("ours", "stored", "server")
async def test_a_message_that_is_given_back_and_not_taken_here_goes_to_another_process(make_layer, channel):
    here, elsewhere = make_layer(), make_layer()
    coroutine = here.receive(channel)
    future = coroutine.send(None)
    await here.send(channel, {"type": "a"})
    while not future.done():
        await asyncio.sleep(0.01)
    coroutine.close()
    assert await receive(elsewhere, channel) == {"type": "a"}


async def test_a_coroutine_that_is_collected_gives_its_message_back():
    layer = MemoryChannelLayer()
    coroutine = layer.receive("jobs")
    future = coroutine.send(None)
    await layer.send("jobs", {"type": "a"})
    while not future.done():
        await asyncio.sleep(0)
    del coroutine, future
    gc.collect()
    assert await receive(layer, "jobs") == {"type": "a"}


@ours
async def test_every_call_can_be_cancelled(layer, group):
    channel = await layer.new_channel()
    calls = [
        lambda: layer.send(channel, {"type": "a"}),
        lambda: layer.send_many([(channel, {"type": "a"})]),
        lambda: layer.receive("nothing.here"),
        lambda: layer.new_channel(),
        lambda: layer.group_add(group, channel),
        lambda: layer.group_send(group, {"type": "a"}),
        lambda: layer.group_send_many([(group, {"type": "a"})]),
        lambda: layer.group_channels(group),
        lambda: layer.group_discard(group, channel),
        lambda: layer.statistics(),
        lambda: layer.health(),
        lambda: layer.flush(),
    ]
    for call in calls:
        for steps in range(3):
            task = asyncio.ensure_future(call())
            for _ in range(steps):
                await asyncio.sleep(0)
            await ended(task)
    await layer.send(channel, {"type": "the last"})
    # A send that was cancelled has sent its message or not.
    while await receive(layer, channel) != {"type": "the last"}:
        pass


async def test_a_receive_of_a_name_that_the_crate_refuses_fails():
    """The expression of channels accepts letters of all languages behind the `!`."""
    layer = MemoryChannelLayer()
    with pytest.raises(TypeError, match="a!\u00e4"):
        await asyncio.wait_for(layer.receive("a!\u00e4"), ABSENT)


def new_loops():
    return [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.mark.parametrize("new_loop", new_loops())
def test_a_loop_that_closes_leaves_its_descriptor_at_once(new_loop):
    layer = MemoryChannelLayer()

    async def main():
        channel = await layer.new_channel()
        task = await started(layer.receive(channel))
        await layer.send(channel, {"type": "a"})
        assert await task == {"type": "a"}

    def run():
        loop = new_loop()
        loop.run_until_complete(main())
        loop.close()
        return loop

    run()
    gc.disable()
    try:
        before = len(os.listdir("/proc/self/fd"))
        # The loops are kept: the descriptor is closed with the loop, and not collected with it.
        kept = [run() for _ in range(20)]
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(kept) == 20
    finally:
        gc.enable()


@pytest.mark.parametrize("new_loop", new_loops())
def test_a_loop_that_closes_while_calls_wait_is_collected(new_loop):
    layer = MemoryChannelLayer()

    async def main():
        await started(layer.receive("jobs"))

    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    collected = weakref.ref(loop)
    del loop
    gc.collect()
    assert collected() is None

    async def after():
        await layer.send("jobs", {"type": "a"})
        assert await receive(layer, "jobs") == {"type": "a"}

    asyncio.run(after())


def test_a_message_waits_for_the_loop_that_is_open():
    """The first call waits on a loop that has closed without ending it."""
    layer = MemoryChannelLayer()
    closed = asyncio.new_event_loop()

    async def wait():
        return await started(layer.receive("jobs"))

    task = closed.run_until_complete(wait())
    closed.close()

    async def main():
        waiting = await started(layer.receive("jobs"))
        await layer.send("jobs", {"type": "a"})
        assert await asyncio.wait_for(waiting, ARRIVES) == {"type": "a"}

    asyncio.run(main())
    assert not task.done()


def test_a_cancelled_receive_leaves_its_message_to_the_loop_of_another_thread():
    layer = MemoryChannelLayer()
    waits, results = threading.Event(), []

    async def other():
        task = await started(layer.receive("jobs"))
        waits.set()
        results.append(await asyncio.wait_for(task, ARRIVES))

    async def main():
        first = await started(layer.receive("jobs"))
        thread = threading.Thread(target=lambda: asyncio.run(other()))
        thread.start()
        await asyncio.to_thread(waits.wait, ARRIVES)
        first.cancel()
        await layer.send("jobs", {"type": "a"})
        await asyncio.to_thread(thread.join, ARRIVES)
        assert first.cancelled()

    asyncio.run(main())
    assert results == [{"type": "a"}]


def test_without_a_loop_nothing_is_sent():
    layer = MemoryChannelLayer()
    with pytest.raises(RuntimeError, match="no running event loop"):
        layer.send("jobs", {"type": "a"}).send(None)

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(layer.receive("jobs"), ABSENT)

    asyncio.run(main())


async def test_values_come_back_as_they_were():
    layer = MemoryChannelLayer()
    message = {
        "type": "a",
        "none": None,
        "flags": [True, False],
        "numbers": [0, -1, 2**63 - 1, -(2**63), 1.5, float("inf")],
        "text": "Grüße \N{SNOWMAN} \0",
        "bytes": bytes(range(256)),
        "large": os.urandom(300_000),
        "nested": {"list": [{"a": [[]]}, {}], "": ""},
    }
    await layer.send("jobs", message)
    received = await receive(layer, "jobs")
    assert received == message
    assert [type(flag) for flag in received["flags"]] == [bool, bool]


async def test_subclasses_are_sent_as_their_base():
    class Text(str):
        pass

    class Number(int):
        pass

    layer = MemoryChannelLayer()
    await layer.send("jobs", {Text("key"): Text("a"), "number": Number(5), "tuple": (1, (2,))})
    received = await receive(layer, "jobs")
    assert received == {"key": "a", "number": 5, "tuple": [1, [2]]}
    assert {type(value) for value in received.values()} == {str, int, list}


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("message", "error", "place"),
    [
        ({"a": {1}}, TypeError, r'message\["a"\] .* type set'),
        ({"a": [0, {"b": object()}]}, TypeError, r'message\["a"\]\[1\]\["b"\] .* type object'),
        ({"a": bytearray(b"a")}, TypeError, r'message\["a"\] .* type bytearray'),
        ({"a": {1: 2}}, TypeError, r'message\["a"\] .* keys must be str, not int'),
        ({"a": 2**63}, OverflowError, r'message\["a"\] .* 64 bits'),
        ({"a": "\ud800"}, ValueError, r'message\["a"\] .* surrogates'),
        ({"a": nested(200)}, ValueError, r"levels"),
        ({"a": b"a" * (9 << 20)}, MessageError, r"larger than the limit"),
    ],
)
async def test_a_value_that_cannot_be_sent_is_named_by_its_place(message, error, place):
    layer = MemoryChannelLayer()
    with pytest.raises(error, match=place):
        await layer.send("jobs", message)


async def test_python_runs_while_a_large_message_is_packed(make_layer_of_native):
    """The GIL is released: a thread counts on while messages are encoded and sent."""
    layer, channel = make_layer_of_native(), "jobs.large"
    counted, stop = 0, False

    def count():
        nonlocal counted
        while not stop:
            counted += 1

    thread = threading.Thread(target=count)
    message = {"type": "a", "values": [{"number": number} for number in range(50_000)]}
    native, before = layer._native, 0
    call = native.send(channel, message)
    thread.start()
    before = counted
    await call
    stop = True
    thread.join()
    assert counted > before


@pytest.fixture
def make_layer_of_native(redis, prefix):
    from channel_layer import RedisChannelLayer

    return lambda: RedisChannelLayer(hosts=[redis.url], prefix=prefix)


def run_script(script, *arguments, **options):
    """Runs a script as a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


CALLS_UNDER_WAY = """
import asyncio, sys, threading
from django.conf import settings
settings.configure()
from channel_layer import RedisChannelLayer

layer = RedisChannelLayer(hosts=[sys.argv[1]])

async def main():
    for _ in range(50):
        asyncio.ensure_future(layer.receive("jobs"))
    channel = await layer.new_channel()
    asyncio.ensure_future(layer.receive(channel))
    for number in range(1000):
        asyncio.ensure_future(layer.send("sink", {"type": "a", "large": b"a" * 50_000}))
    await asyncio.sleep(0)
    if sys.argv[2] == "thread":
        await asyncio.sleep(3600)
    if sys.argv[2] == "exit":
        raise SystemExit(7)

if sys.argv[2] == "thread":
    threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
    import time
    time.sleep(0.3)
elif sys.argv[2] == "leave":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("exit", 7), ("thread", 0), ("leave", 0)])
def test_python_ends_while_calls_are_under_way(redis, how, code):
    started_at = time.monotonic()
    ended_process = run_script(CALLS_UNDER_WAY, redis.url, how)
    assert ended_process.returncode == code, ended_process.stderr
    assert time.monotonic() - started_at < 20


def test_messages_of_a_process_that_ends_return_to_their_channel(redis, prefix, make_layer_of_native):
    script = """
import asyncio, sys
from django.conf import settings
settings.configure()
from channel_layer import RedisChannelLayer

async def main():
    layer = RedisChannelLayer(hosts=[sys.argv[1]], prefix=sys.argv[2])
    coroutine = layer.receive("jobs")
    future = coroutine.send(None)
    await layer.send("jobs", {"type": "a"})
    while not future.done():
        await asyncio.sleep(0.01)
    coroutine.close()

asyncio.run(main())
"""
    assert run_script(script, redis.url, prefix).returncode == 0

    async def main():
        layer = make_layer_of_native()
        assert await receive(layer, "jobs") == {"type": "a"}
        await layer.close()

    asyncio.run(main())


FORKS = """
import asyncio, os, sys
from django.conf import settings
settings.configure()
from channel_layer import RedisChannelLayer

layer = RedisChannelLayer(hosts=[sys.argv[1]], symmetric_encryption_keys=["key"])

async def talk():
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "a"})
    assert await asyncio.wait_for(layer.receive(channel), 20) == {"type": "a"}
    return channel

loop = asyncio.new_event_loop()
async def wait():
    asyncio.ensure_future(layer.receive("jobs"))
    return await talk()
names = [loop.run_until_complete(wait())] if sys.argv[2] == "used" else []
readers = []
for _ in range(3):
    reader, writer = os.pipe()
    if os.fork() == 0:
        name = asyncio.run(talk())
        os.write(writer, name.encode())
        del loop
        sys.exit(0)
    os.close(writer)
    readers.append(reader)
for reader in readers:
    names.append(os.read(reader, 1000).decode())
    assert os.wait()[1] == 0
# The connections and the loop of the parent still work.
names.append(loop.run_until_complete(talk()))
processes = {name.partition("!")[0] for name in names}
assert len(processes) == (4), names
"""


@pytest.mark.parametrize("when", ["imported", "used"])
def test_a_process_forks(redis, when):
    process = run_script(FORKS, redis.url, when)
    assert process.returncode == 0, process.stderr


def test_importing_starts_no_thread():
    script = """
import os
from django.conf import settings
settings.configure()
from channel_layer import RedisChannelLayer
RedisChannelLayer(hosts=["redis://127.0.0.1:1"])
assert len(os.listdir("/proc/self/task")) == 1
"""
    process = run_script(script)
    assert process.returncode == 0, process.stderr


def test_an_interrupt_ends_a_receive_at_once(redis):
    script = """
import asyncio, os, signal, sys, threading
from django.conf import settings
settings.configure()
from channel_layer import RedisChannelLayer

async def main():
    layer = RedisChannelLayer(hosts=[sys.argv[1]])
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    await layer.receive("jobs")

try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(9)
"""
    assert run_script(script, redis.url).returncode == 9
