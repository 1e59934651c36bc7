"""channels_redis 4.3.0, its core layer or its pub/sub layer, under the loads of the comparison."""

import asyncio
import itertools
import json
import os
import sys
import time

from channels_redis.core import RedisChannelLayer
from channels_redis.pubsub import RedisPubSubChannelLayer
from conversation import Arrivals, body, reason, say

CAPACITY = 100_000_000
# Members of a group that join at the same time.
JOINING = 64


class Participant:
    def __init__(self, kind):
        self.kind = kind
        self.layer = None
        self.arrivals = Arrivals()
        self.tasks = []
        self.channels = []

    async def connect(self, redis, key=None):
        # The default timeout of the client would end blocking reads without a message, and its 100 connections are too few.
        hosts = [{"address": redis, "socket_timeout": None, "max_connections": 10_000}]
        keys = {"symmetric_encryption_keys": [key]} if key else {}
        if self.kind == "core":
            self.layer = RedisChannelLayer(hosts=hosts, capacity=CAPACITY, **keys)
        else:
            self.layer = RedisPubSubChannelLayer(hosts=hosts, **keys)
        return {}

    async def receive(self, channel, mark):
        self._read(channel, mark)
        await asyncio.sleep(0.1)
        return {}

    async def serve(self, process, clients, mark):
        """Every client has a channel and a task that receives from it, like a consumer."""
        self.channels = [await self.layer.new_channel() for _ in range(clients)]
        for channel in self.channels:
            self._read(channel, mark)
        await asyncio.sleep(0.1)
        return {"targets": self.channels}

    def _read(self, channel, mark):
        async def read():
            try:
                while True:
                    self.arrivals.add(await self.layer.receive(channel), mark)
            except Exception as error:
                self.arrivals.failure = reason(error)

        self.tasks.append(asyncio.create_task(read()))

    async def progress(self):
        return self.arrivals.progress()

    async def collect(self):
        return self.arrivals.take()

    async def send(self, channels, count, senders, size, mark):
        async def work(sender):
            turns = itertools.cycle(channels[sender::senders] or [channels[sender % len(channels)]])
            for number in range(sender, count, senders):
                await self.layer.send(next(turns), {"body": body(size, mark, number)})

        start = time.monotonic_ns()
        await asyncio.gather(*(work(sender) for sender in range(senders)))
        return {"start": start, "end": time.monotonic_ns()}

    async def send_paced(self, channel, count, gap_us, size):
        for _ in range(count):
            await asyncio.sleep(gap_us / 1e6)
            await self.layer.send(channel, {"body": body(size, "time")})
        return {}

    async def join(self, group, process, members):
        """Adds the channels of this process to the group."""
        for first in range(0, members, JOINING):
            joining = self.channels[first : min(first + JOINING, members)]
            await asyncio.gather(*(self.layer.group_add(group, channel) for channel in joining))
        return {}

    async def group_send(self, group, calls, gap_us, size):
        start, nanos = time.monotonic_ns(), []
        for _ in range(calls):
            before = time.monotonic_ns()
            await self.layer.group_send(group, {"body": body(size)})
            nanos.append(time.monotonic_ns() - before)
        return {"start": start, "end": time.monotonic_ns(), "nanos": nanos}


async def main():
    participant = Participant(sys.argv[1])
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        try:
            answer = await getattr(participant, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": reason(error)}
        say(answer)
    os._exit(0)


asyncio.run(main())
