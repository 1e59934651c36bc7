"""The site of examples/django on the native format, with its Rust worker beside it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from redis_server import free_port
from support import ARRIVES

ROOT = Path(__file__).parents[2]
WORKER = ROOT / "target/debug/examples/django"


@pytest.fixture
def start(own_redis, tmp_path):
    """Starts a program on a server of its own: the example has no setting for the prefix."""
    processes = []

    def start(*command):
        environment = {
            "CHANNEL_LAYER_FORMAT": "native",
            "REDIS_URL": own_redis.url,
            "CHANNEL_LAYER_HOSTS": own_redis.url,
        }
        log = (tmp_path / f"{len(processes)}.log").open("wb")
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT / "examples/django",
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


async def opened(url, server):
    """Opens a WebSocket as soon as the server listens."""
    async with asyncio.timeout(40):
        while True:
            try:
                return await connect(url, origin="http://127.0.0.1")
            except OSError:
                assert server.poll() is None
                await asyncio.sleep(0.1)


async def test_a_rust_worker_answers_the_consumers_of_a_site(start):
    assert WORKER.exists(), "run `cargo build --example django`, as scripts/test does"
    port = free_port()
    server = start(sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port), "chatsite.asgi:application")
    client = await opened(f"ws://127.0.0.1:{port}/ws/chat/", server)
    async with client:

        async def hear():
            return json.loads(await asyncio.wait_for(client.recv(), ARRIVES))

        start(WORKER)
        assert await hear() == {"text": "A worker is here."}
        for text, words in [("one", 1), ("and two more", 3), ("", 0)]:
            await client.send(json.dumps({"text": text}))
            heard = [await hear(), await hear()]
            assert {"text": text} in heard and {"words": words} in heard
