"""The layer of asgi_redis. Its calls block, so each runs in a thread."""

import asyncio
import uuid
import warnings

import chat_1
from aged import Aged
from asgi_redis import RedisChannelLayer

# Much shorter than the deadlines of tests.
PAUSE = 0.005


class AsgiRedis:
    def __init__(self, options):
        self.layer = RedisChannelLayer(**options)

    async def call(self, method, *arguments):
        """Calls a method of the layer."""
        return await asyncio.to_thread(getattr(self.layer, method), *arguments)

    async def new_local_channel(self):
        """Returns a name of the form that daphne 1 uses."""
        return f"daphne.response.{uuid.uuid4().hex[:10]}!{uuid.uuid4().hex[:10]}"

    async def receive(self, channel):
        """Polls, because a blocking call waits on one host only, for 5 s."""
        source = channel[: channel.find("!") + 1] or channel
        while True:
            name, message = await self.call("receive", [source], False)
            if name is not None:
                return [name, message]
            await asyncio.sleep(PAUSE)

    async def send_aged(self, seconds, channel, message):
        """Sends a message that was encrypted `seconds` ago."""
        self.layer.crypter = Aged(self.layer.crypter, seconds)
        await self.call("send", channel, message)

    async def receive_many(self, channels):
        """Calls the deprecated blocking method of the layer."""
        while True:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                name, message = await self.call("receive_many", channels, True)
            if name is not None:
                return [name, message]

    async def work(self):
        await chat_1.Worker(self).run()

    async def group_send(self, group, message):
        await self.call("send_group", group, message)

    async def close(self):
        for connection in self.layer._connection_list:
            connection.connection_pool.disconnect()
