"""Django sites in real processes: the chat of the tutorial of Channels under each server, and its workers."""

import asyncio
import json
import uuid
from collections import Counter
from contextlib import AsyncExitStack, suppress

import pytest
from websockets.asyncio.client import connect

from conftest import LAYERS
from redis_server import RedisServer
from site_process import SiteProcess, SiteServer
from support import ARRIVES, host


@pytest.fixture
def start(tmp_path, redis, prefix):
    """Starts servers and workers of the site, and ends them with the test."""
    processes = []

    def start(layer_name, server=None, command=None, server_of_layer=redis, **config):
        backend = LAYERS[layer_name][0]
        config = {"hosts": [host(server_of_layer.url)], "prefix": prefix} | config
        if server is not None:
            process = SiteServer(tmp_path, server, backend, config, redis.url)
        else:
            process = SiteProcess(tmp_path, backend, config, command, redis.url)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
async def clients():
    """Opens WebSockets and closes them with the test."""
    async with AsyncExitStack() as stack:

        async def open_(*urls):
            return await asyncio.gather(*(stack.enter_async_context(connect(url, open_timeout=20)) for url in urls))

        yield open_


async def say(client, text):
    await client.send(json.dumps({"message": text}))


async def hear(client):
    return json.loads(await asyncio.wait_for(client.recv(), ARRIVES))["message"]


async def until(condition, what):
    async with asyncio.timeout(ARRIVES):
        while not condition():
            await asyncio.sleep(0.05)
    assert condition(), what


class TestChat:
    @pytest.mark.parametrize("server", ["daphne", "uvicorn", "gunicorn"])
    @pytest.mark.layers("server")
    async def test_everyone_in_a_room_reads_everyone(self, start, clients, layer_name, server):
        site = start(layer_name, server)
        members = await clients(*[site.chat("lobby", kind) for kind in ("chat", "sync") for _ in range(8)])
        (outsider,) = await clients(site.chat("other"))
        for number, member in enumerate(members):
            await say(member, f"text {number}")
        expected = Counter(f"text {number}" for number in range(len(members)))
        for member in members:
            assert Counter([await hear(member) for _ in members]) == expected
        # A view, which is synchronous, sends too. Nothing comes before its message, so that nothing came twice.
        await asyncio.to_thread(site.get, "say/lobby/bye")
        await asyncio.to_thread(site.get, "say/other/bye")
        for client in [*members, outsider]:
            assert await hear(client) == "bye"

    @pytest.mark.parametrize("server", ["daphne", "uvicorn", "gunicorn"])
    @pytest.mark.layers("ours", "server")
    async def test_a_server_stops_in_time_with_clients_connected(self, start, clients, layer_name, server):
        site = start(layer_name, server)
        members = await clients(*[site.chat("lobby")] * 6)
        await say(members[0], "hi")
        for member in members:
            assert await hear(member) == "hi"
        await asyncio.to_thread(site.stop)

    @pytest.mark.layers("ours", "server")
    async def test_those_who_stay_lose_nothing_while_others_come_and_go(self, start, clients, layer_name):
        """With channels_redis messages are lost and doubled here."""
        site = start(layer_name, "uvicorn", capacity=10_000)
        stay = await clients(*[site.chat("lobby")] * 20)
        sent, over = 300, False

        async def come_and_go():
            visits = 0
            while not over:
                async with connect(site.chat("lobby"), open_timeout=20) as visitor:
                    if visits % 3 == 0:
                        await hear(visitor)
                visits += 1
            return visits

        visitors = [asyncio.create_task(come_and_go()) for _ in range(10)]
        for number in range(sent):
            await say(stay[0], str(number))
            await asyncio.sleep(0.005)
        heard = await asyncio.gather(*(hear_all(client, sent) for client in stay))
        over = True
        # Visitors may wait for a message.
        ending = asyncio.gather(*visitors)
        while not ending.done():
            await asyncio.to_thread(site.get, "say/lobby/end")
            await asyncio.wait([ending], timeout=0.2)
        assert sum(await ending) > len(visitors)
        for numbers in heard:
            assert numbers == [str(number) for number in range(sent)]
        for client in stay:
            assert await hear(client) == "end"


async def hear_all(client, count):
    return [await hear(client) for _ in range(count)]


class TestMixedFleet:
    """Half of the processes of a site still have channels_redis."""

    @pytest.mark.parametrize("old, new", [("channels_redis", "core"), ("channels_redis_pubsub", "pubsub")])
    async def test_a_room_spans_both(self, start, clients, old, new):
        sites = [start(name, "daphne") for name in (old, new)]
        members = await clients(*[site.chat("lobby") for site in sites for _ in range(3)])
        for number, member in enumerate(members):
            await say(member, f"text {number}")
        expected = {f"text {number}" for number in range(len(members))}
        for member in members:
            # The processes of channels_redis may receive a message twice.
            heard = set()
            while heard != expected:
                heard.add(await hear(member))


class TestWorkers:
    @pytest.mark.layers("ours", "stored", "server")
    def test_two_workers_on_a_channel_do_each_job_once(self, start, redis, make_sender, layer_name):
        """Two workers with channels_redis do many jobs twice."""
        workers = [start(layer_name, command=["django", "runworker", "jobs"]) for _ in range(2)]
        for worker in workers:
            worker.wait_for_output("Running worker for channels ['jobs']")
        done, count = f"done-{uuid.uuid4().hex}", 300
        layer = make_sender(layer_name)

        async def send():
            for number in range(count):
                await layer.send("jobs", {"type": "job.done", "list": done, "number": number})
            deadline = asyncio.timeout(60)
            async with deadline:
                while redis.client.llen(done) < count:
                    await asyncio.sleep(0.05)
            # A job that is done twice is done by now.
            await asyncio.sleep(0.5)
            await layer.close()

        asyncio.run(send())
        entries = [entry.split() for entry in redis.client.lrange(done, 0, -1)]
        assert Counter(int(number) for number, _ in entries) == Counter(range(count))
        assert len({process for _, process in entries}) == 2, "both workers work"


@pytest.fixture
def make_sender(redis, prefix):
    from django.utils.module_loading import import_string

    def make(layer_name):
        return import_string(LAYERS[layer_name][0])(hosts=[host(redis.url)], prefix=prefix, capacity=1000)

    return make


class TestOutage:
    @pytest.mark.layers("ours", "server")
    async def test_a_chat_goes_on_when_redis_is_back(self, start, clients, layer_name):
        server = RedisServer("appendonly yes", "appendfsync always")
        try:
            site = start(layer_name, "uvicorn", server_of_layer=server)
            members = await clients(*[site.chat("lobby")] * 6)
            await say(members[0], "before")
            for member in members:
                assert await hear(member) == "before"
            server.kill()
            server.start()
            # Messages are refused, or lost, until the processes have connected again.
            hearing = [asyncio.create_task(self.hear_end(member)) for member in members]
            async with asyncio.timeout(40):
                while not all(task.done() for task in hearing):
                    with suppress(OSError):
                        await asyncio.to_thread(site.get, "say/lobby/end")
                    await asyncio.sleep(0.2)
            await asyncio.gather(*hearing)
        finally:
            server.close()

    async def hear_end(self, client):
        while await hear(client) != "end":
            pass
