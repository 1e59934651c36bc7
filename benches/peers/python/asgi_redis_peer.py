"""asgi_redis 1.4.3 under the loads of the comparison. Its calls block, so tasks are threads here."""

import itertools
import json
import os
import sys
import threading
import time

from asgi_redis import RedisChannelLayer
from conversation import Arrivals, body, reason, say

# The threads of a Python process run one at a time. With more of them, switching threads would dominate.
MOST_THREADS = 16
CAPACITY = 100_000_000


class Participant:
    def __init__(self):
        self.layer = None
        self.arrivals = Arrivals()

    def connect(self, redis, key=None):
        keys = [key] if key else None
        self.layer = RedisChannelLayer(hosts=[redis], capacity=CAPACITY, symmetric_encryption_keys=keys)
        return {}

    def receive(self, channel, mark):
        self._read(channel, mark)
        return {}

    def serve(self, process, clients, mark):
        self._read(process, mark)
        return {"targets": [f"{process}c{client}" for client in range(clients)]}

    def _read(self, channel, mark):
        def read():
            try:
                while True:
                    name, message = self.layer.receive([channel], block=True)
                    if name is not None:
                        self.arrivals.add(message, mark)
            except Exception as error:
                self.arrivals.failure = reason(error)

        threading.Thread(target=read, daemon=True).start()

    def progress(self):
        return self.arrivals.progress()

    def collect(self):
        return self.arrivals.take()

    def send(self, channels, count, senders, size, mark):
        senders = min(senders, MOST_THREADS)
        failures = []

        def work(sender):
            try:
                turns = itertools.cycle(channels[sender::senders] or channels)
                for number in range(sender, count, senders):
                    self.layer.send(next(turns), {"body": body(size, mark, number)})
            except Exception as error:
                failures.append(reason(error))

        start = time.monotonic_ns()
        threads = [threading.Thread(target=work, args=(sender,)) for sender in range(senders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise RuntimeError(failures[0])
        return {"start": start, "end": time.monotonic_ns()}

    def send_paced(self, channel, count, gap_us, size):
        for _ in range(count):
            time.sleep(gap_us / 1e6)
            self.layer.send(channel, {"body": body(size, "time")})
        return {}

    def join(self, group, process, members):
        for member in range(members):
            self.layer.group_add(group, f"{process}c{member}")
        return {}

    def group_send(self, group, calls, gap_us, size):
        start, nanos = time.monotonic_ns(), []
        for _ in range(calls):
            before = time.monotonic_ns()
            self.layer.send_group(group, {"body": body(size)})
            nanos.append(time.monotonic_ns() - before)
        return {"start": start, "end": time.monotonic_ns(), "nanos": nanos}


def main():
    participant = Participant()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(participant, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": reason(error)}
        say(answer)
    # Ends at once, because readers block in Redis for up to five seconds.
    os._exit(0)


main()
