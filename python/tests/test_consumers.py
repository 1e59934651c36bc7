"""Consumers of Channels over each layer, with the communicators of ``channels.testing``."""

import asyncio

import pytest
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer, WebsocketConsumer
from channels.layers import channel_layers, get_channel_layer
from channels.testing import ApplicationCommunicator, HttpCommunicator, WebsocketCommunicator
from django.test import override_settings

from support import receive


@pytest.fixture
def default_layer(layer):
    """Makes the layer that of the site."""
    previous = channel_layers.set("default", layer)
    yield layer
    channel_layers.set("default", previous)
    if previous is None:
        channel_layers.backends.pop("default")


class Chat(AsyncJsonWebsocketConsumer):
    groups = ["everyone"]

    async def connect(self):
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive_json(self, content):
        await self.channel_layer.group_send("room", {"type": "chat.message", **content})

    async def chat_message(self, message):
        await self.send_json({"text": message["text"]})


class SyncChat(WebsocketConsumer):
    groups = ["room"]

    def receive(self, text_data):
        from asgiref.sync import async_to_sync

        async_to_sync(self.channel_layer.group_send)("room", {"type": "chat.message", "text": text_data})

    def chat_message(self, message):
        self.send(text_data=message["text"])


async def test_the_clients_of_a_room_read_each_other(default_layer):
    clients = [WebsocketCommunicator(Chat.as_asgi(), "/") for _ in range(3)]
    for client in clients:
        assert (await client.connect())[0]
    await clients[0].send_json_to({"text": "hi"})
    for client in clients:
        assert await client.receive_json_from(20) == {"text": "hi"}
    await clients[0].disconnect()
    await get_channel_layer().group_send("everyone", {"type": "chat.message", "text": "bye"})
    for client in clients[1:]:
        assert await client.receive_json_from(20) == {"text": "bye"}
        await client.disconnect()


async def test_a_synchronous_consumer_works(default_layer):
    client = WebsocketCommunicator(SyncChat.as_asgi(), "/")
    assert (await client.connect())[0]
    await client.send_to(text_data="hi")
    assert await client.receive_from(20) == "hi"
    await client.disconnect()


async def test_a_consumer_that_fails_shows_its_own_error(default_layer):
    class Failing(AsyncWebsocketConsumer):
        groups = ["room"]

        async def chat_message(self, message):
            raise ZeroDivisionError("of the consumer")

    client = WebsocketCommunicator(Failing.as_asgi(), "/")
    assert (await client.connect())[0]
    await default_layer.group_send("room", {"type": "chat.message"})
    with pytest.raises(ZeroDivisionError, match="of the consumer"):
        await asyncio.wait_for(client.future, 20)


@pytest.mark.layers("ours")
async def test_a_client_that_leaves_takes_no_message_of_others(default_layer):
    stays = WebsocketCommunicator(Chat.as_asgi(), "/")
    assert (await stays.connect())[0]

    async def come_and_go():
        for _ in range(20):
            client = WebsocketCommunicator(Chat.as_asgi(), "/")
            assert (await client.connect(20))[0]
            await client.disconnect(timeout=20)

    visits = asyncio.gather(*(come_and_go() for _ in range(5)))
    for number in range(100):
        await default_layer.group_send("room", {"type": "chat.message", "text": str(number)})
        assert await stays.receive_json_from(20) == {"text": str(number)}
    await visits
    await stays.disconnect()


async def test_a_worker_runs_consumers_of_channels(default_layer, channel):
    from channels.worker import Worker

    done = asyncio.Queue()

    class Job(AsyncConsumer):
        async def job_run(self, message):
            await self.channel_layer.send(message["reply"], {"type": "answer", "number": message["number"] * 2})

    class SyncJob(SyncConsumer):
        def job_run(self, message):
            done.put_nowait(message["number"])

    async def application(scope, receive, send):
        consumer = {channel: Job, f"sync.{channel}": SyncJob}[scope["channel"]]
        await consumer.as_asgi()(scope, receive, send)

    worker = Worker(application, [channel, f"sync.{channel}"], default_layer)
    task = asyncio.create_task(worker.handle())
    # A pub/sub layer subscribes with the first receive.
    await asyncio.sleep(0.3)
    reply = await default_layer.new_channel()
    for number in range(5):
        await default_layer.send(channel, {"type": "job.run", "number": number, "reply": reply})
        assert await receive(default_layer, reply) == {"type": "answer", "number": number * 2}
        await default_layer.send(f"sync.{channel}", {"type": "job.run", "number": number})
        assert await asyncio.wait_for(done.get(), 20) == number
    task.cancel()
    await asyncio.wait([task])


async def test_an_http_consumer_waits_for_a_message(default_layer):
    class LongPoll(AsyncHttpConsumer):
        async def handle(self, body):
            await self.channel_layer.group_add("poll", self.channel_name)
            await self.send_headers(status=200, headers=[])
            self.keeps_open = True

        async def http_request(self, message):
            await self.handle(b"")

        async def poll_done(self, message):
            await self.send_body(message["text"].encode())

    client = HttpCommunicator(LongPoll.as_asgi(), "GET", "/")
    response = asyncio.create_task(client.get_response(20))
    async with asyncio.timeout(20):
        while not response.done():
            await default_layer.group_send("poll", {"type": "poll.done", "text": "done"})
            await asyncio.wait([response], timeout=0.2)
    assert (await response)["body"] == b"done"


@pytest.mark.layers("ours")
async def test_the_settings_make_the_layer(layer_name, redis, prefix):
    from conftest import LAYERS

    path, traits = LAYERS[layer_name]
    config = {"hosts": [redis.url], "prefix": prefix, "capacity": 7} if "server" in traits else {"capacity": 7}
    entries = {alias: {"BACKEND": path, "CONFIG": config} for alias in ("default", "other")}
    with override_settings(CHANNEL_LAYERS=entries):
        one, two = get_channel_layer(), get_channel_layer("other")
        assert one is get_channel_layer() is not two and type(one) is type(two)
        for layer in (one, two):
            channel = await layer.new_channel()
            await layer.send(channel, {"type": "a"})
            assert await receive(layer, channel) == {"type": "a"}
            assert layer.capacity == 7
            await layer.close()


async def test_an_application_is_ended_with_its_communicator(default_layer):
    client = ApplicationCommunicator(Chat.as_asgi(), {"type": "websocket", "path": "/"})
    await client.send_input({"type": "websocket.connect"})
    assert (await client.receive_output(20))["type"] == "websocket.accept"
    await client.send_input({"type": "websocket.disconnect", "code": 1000})
    await client.wait(20)
