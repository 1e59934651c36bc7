"""Runs layers of Python's packages for the tests.

A command is a JSON object on a line of standard input. Its result is a JSON object on a line of standard output with the same
`id`. Commands run concurrently. The process exits at the end of standard input.
"""

import asyncio
import concurrent.futures
import json
import os
import sys
import threading

import values

# Number of concurrent calls of asgi_redis. Each blocks a thread.
THREADS = 64


def open_layer(package, options):
    if package == "asgi_redis":
        from asgi_redis_peer import AsgiRedis

        return AsgiRedis(options)
    from channels_redis_peer import Core, PubSub

    return {"channels_redis": Core, "pubsub": PubSub}[package](options)


class Peer:
    def __init__(self):
        self.layers = {}
        self.running = {}

    def take(self, command):
        layer = command["layer"]
        task = asyncio.ensure_future(self.answer(command))
        tasks = self.running.setdefault(layer, set())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def answer(self, command):
        try:
            answer = {"result": values.to_json(await self.run(**command))}
        except Exception as error:
            answer = {"error": {"type": type(error).__name__, "text": str(error)}}
        sys.stdout.write(json.dumps({"id": command["id"]} | answer) + "\n")
        sys.stdout.flush()

    async def run(self, id, layer, do, arguments):
        arguments = values.from_json(arguments)
        if do == "open":
            self.layers[layer] = open_layer(*arguments)
        elif do == "close":
            for task in self.running.pop(layer) - {asyncio.current_task()}:
                task.cancel()
            await self.layers.pop(layer).close()
        else:
            layer = self.layers[layer]
            if do == "receive_depth":
                _, message = await layer.receive(*arguments)
                return values.depth(message)
            special = getattr(layer, do, None)
            return await (special(*arguments) if special else layer.call(do, *arguments))


def read_commands(loop, peer):
    """Runs in its own thread, so that the end of standard input ends the process at any time."""
    for line in sys.stdin.buffer:
        loop.call_soon_threadsafe(peer.take, json.loads(line))
    os._exit(0)


async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(THREADS))
    threading.Thread(target=read_commands, args=(loop, Peer()), daemon=True).start()
    await asyncio.Event().wait()


asyncio.run(main())
