"""The two layers of channels_redis."""

import asyncio
import itertools

from aged import Aged
from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer

# Much shorter than the deadlines of tests.
PAUSE = 0.005


class Layer:
    """The common part of both layers."""

    def __init__(self, kind, options):
        # By default redis-py 8 ends a read after 5 s, which is as long as the blocking reads of the layers.
        hosts = [{"address": url, "socket_timeout": None} for url in options.pop("hosts")]
        self.layer = kind(hosts=hosts, **options)

    async def call(self, method, *arguments):
        """Calls a method of the layer."""
        return await getattr(self.layer, method)(*arguments)

    async def new_local_channel(self):
        return await self.layer.new_channel()

    async def receive(self, channel):
        return [channel, await self.layer.receive(channel)]


class Core(Layer):
    def __init__(self, options):
        super().__init__(RedisChannelLayer, options)

    async def receive(self, channel):
        if "!" not in channel and self.layer.ring_size > 1:
            # A call waits on one host until a message arrives there, and a layer runs one call at a time for a channel. A
            # message on another host would wait. The tests are about reading a message and not about the choice of the host.
            host = await self.host_with_message(channel)
            self.layer._receive_index_generator = itertools.repeat(host)
        return await super().receive(channel)

    async def host_with_message(self, channel):
        while True:
            for host in range(self.layer.ring_size):
                if await self.layer.connection(host).zcard(self.layer.prefix + channel):
                    return host
            await asyncio.sleep(PAUSE)

    async def send_aged(self, seconds, channel, message):
        """Sends a message that was encrypted `seconds` ago."""
        self.layer._serializer.crypter = Aged(self.layer._serializer.crypter, seconds)
        await self.layer.send(channel, message)

    async def close(self):
        await self.layer.close_pools()


class PubSub(Layer):
    def __init__(self, options):
        super().__init__(RedisPubSubChannelLayer, options)

    async def close(self):
        await self.layer.flush()
