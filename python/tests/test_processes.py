"""Forks, the end of the interpreter, and signals: each test runs a program of its own."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

pytestmark = pytest.mark.layers("ours")

PREAMBLE = """
import asyncio, multiprocessing, os, signal, sys, threading, time
from django.conf import settings
settings.configure(CHANNEL_LAYERS={{}})
from django.utils.module_loading import import_string

layer = import_string({path!r})(**{config!r})

async def echo(text):
    channel = await layer.new_channel()
    await layer.send(channel, {{"type": text}})
    assert await asyncio.wait_for(layer.receive(channel), 20) == {{"type": text}}
"""


@pytest.fixture
def program(layer_name, redis, prefix):
    """Starts a Python program with a layer."""
    from conftest import LAYERS

    path, traits = LAYERS[layer_name]
    config = {"capacity": 10_000} | ({"hosts": [redis.url], "prefix": prefix} if "server" in traits else {})
    processes = []

    def start(text):
        source = PREAMBLE.format(path=path, config=config) + textwrap.dedent(text)
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", source],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ended(process, seconds=30):
    """Waits for the end of a program. Returns its output; its errors must be empty."""
    output, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors
    assert errors == ""
    return output


def test_an_import_starts_nothing(program):
    process = program(
        """
        import channel_layer
        print(threading.active_count(), len(os.listdir("/proc/self/task")))
        """
    )
    assert ended(process) == "1 1\n"


@pytest.mark.parametrize("used", [True, False])
def test_a_layer_works_in_forked_processes(program, used):
    process = program(
        f"""
        if {used}:
            asyncio.run(echo("parent"))

        def child(number):
            asyncio.run(echo(f"child {{number}}"))

        fork = multiprocessing.get_context("fork")
        children = [fork.Process(target=child, args=(number,)) for number in range(4)]
        for child in children:
            child.start()
        asyncio.run(echo("parent again"))
        for child in children:
            child.join(25)
        print([child.exitcode for child in children])
        """
    )
    assert ended(process, 60) == "[0, 0, 0, 0]\n"


@pytest.mark.layers("stored", "server")
def test_the_processes_of_a_fork_have_channels_of_their_own(program):
    process = program(
        """
        async def main():
            before = await layer.new_channel()
            ours, theirs = os.pipe()
            if os.fork() == 0:
                os.write(theirs, asyncio.run(layer.new_channel()).encode())
                os._exit(0)
            os.wait()
            of_child, after = os.read(ours, 200).decode(), await layer.new_channel()
            print(*(layer.non_local_name(before) == layer.non_local_name(other) for other in (after, of_child)))

        asyncio.run(main())
        """
    )
    assert ended(process) == "True False\n"


def test_a_child_that_exits_leaves_the_parent_alone(program):
    process = program(
        """
        asyncio.run(echo("before"))
        for _ in range(3):
            if os.fork() == 0:
                sys.exit(0)
            os.wait()
        asyncio.run(echo("after"))
        """
    )
    ended(process)


@pytest.mark.parametrize("how", ["pass", "sys.exit(0)", "asyncio.run(layer.close())"])
def test_the_interpreter_ends_with_calls_under_way(program, how):
    process = program(
        f"""
        async def wait():
            channel = await layer.new_channel()
            print("waiting", flush=True)
            await layer.receive(channel)

        threading.Thread(target=lambda: asyncio.run(wait()), daemon=True).start()
        asyncio.run(echo("main"))
        time.sleep(0.2)
        {how}
        """
    )
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "waiting\n"), errors
    # A daemon thread whose call ends while the layer closes may report that.
    assert "panicked" not in errors and "Fatal" not in errors


def test_tasks_that_are_pending_when_the_loop_ends_do_no_harm(program):
    process = program(
        """
        async def main():
            channels = [await layer.new_channel() for _ in range(100)]
            for channel in channels:
                asyncio.ensure_future(layer.receive(channel))
                asyncio.ensure_future(layer.send(channel, {"type": "a"}))
            await asyncio.sleep(0)

        for _ in range(5):
            asyncio.run(main())
        asyncio.run(echo("after"))
        """
    )
    ended(process)


@pytest.mark.parametrize("call", ["layer.receive(channel)", "echo_forever()"])
def test_an_interrupt_ends_a_program_at_once(program, call):
    process = program(
        f"""
        async def echo_forever():
            channel = await layer.new_channel()
            while True:
                # Before Python 3.12, wait_for drops a cancellation that comes together with the result.
                await layer.send(channel, {{"type": "a"}})
                await layer.receive(channel)
                # The calls of a layer in memory are complete at once, and would not let the loop run.
                await asyncio.sleep(0)

        async def main():
            channel = await layer.new_channel()
            print("started", flush=True)
            await {call}

        asyncio.run(main())
        """
    )
    assert process.stdout.readline() == "started\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert errors.rstrip().endswith("KeyboardInterrupt"), errors
    assert process.returncode in (-signal.SIGINT, 1)


def test_a_subprocess_inherits_no_connection(program):
    process = program(
        """
        asyncio.run(echo("a"))
        import subprocess
        inherited = subprocess.check_output(["ls", "-l", "/proc/self/fd"], close_fds=False, text=True)
        assert "socket" not in inherited and "anon_inode" not in inherited, inherited
        """
    )
    ended(process)
