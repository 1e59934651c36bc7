"""A steady load on many channels while something happens to the servers."""

from .children import Crew
from .peers import binary

CHANNELS = 64
GAP_US = 2000


class Steady:
    """The load of one process. It ends with the block."""

    def __init__(self, peer, servers):
        self.peer, self.servers = peer, servers
        self.crew = Crew()

    def __enter__(self):
        self.process = binary(self.peer.name, "steady").start(self.crew, self.servers, "steady")
        self.process.ask("begin", channels=CHANNELS, gap_us=GAP_US)
        return self

    def errors(self):
        return self.process.ask("errors")["errors"]

    def end(self):
        return self.process.ask("end")

    def __exit__(self, *_):
        self.crew.__exit__()
