"""The definition of a load, and the context that all loads share."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from .redis_server import RedisServer
from .sizes import Sizes


@dataclass
class Context:
    """The sizes, peers and servers of a load."""

    sizes: Sizes
    peers: dict
    server: RedisServer
    # Ends the processes that the load keeps between rounds.
    stack: contextlib.ExitStack
    failures: dict

    def each(self, counts, measure, *more):
        """Returns a contestant for every available peer that has a count."""

        def contestant(name, count):
            return lambda: measure(self.server, self.peers[name], count, *more)

        return {name: contestant(name, count) for name, count in counts.items() if name in self.peers}


@dataclass
class Load:
    """The contestants of one comparison."""

    key: str
    title: str
    # Returns the contestants by name, each a function that measures one round.
    make: Callable
    # Overrides the number of rounds for figures that do not vary.
    rounds: int | None = None


def rate(count, answer, end=None):
    """Returns the rate per second, from the start in `answer` to its end or a later `end`."""
    return count / ((end or answer["end"]) - answer["start"]) * 1e9

