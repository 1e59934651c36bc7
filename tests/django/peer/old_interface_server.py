"""Runs daphne 1 over asgi_redis. The arguments are the Redis servers. Logs its address in the form of later versions."""

import sys

from asgi_redis import RedisChannelLayer
from daphne.server import Server
from twisted.internet import reactor


def log_address(port):
    print(f"Listening on TCP address 127.0.0.1:{port.getHost().port}", file=sys.stderr)


server = Server(RedisChannelLayer(hosts=sys.argv[1:]), endpoints=["tcp:0:interface=127.0.0.1"])
reactor.callWhenRunning(lambda: server.listeners[0].addCallback(log_address))
server.run()
