"""What a load is, and what all of them share."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from .redis_server import RedisServer
from .sizes import Sizes


@dataclass
class Context:
    """What a load is made of."""

    sizes: Sizes
    peers: dict
    server: RedisServer
    # Takes down what the load keeps between rounds.
    stack: contextlib.ExitStack
    failures: dict

    def each(self, counts, measure, *more):
        """A contestant for every peer that has a count and is there."""

        def contestant(name, count):
            return lambda: measure(self.server, self.peers[name], count, *more)

        return {name: contestant(name, count) for name, count in counts.items() if name in self.peers}


@dataclass
class Load:
    """Who does what, as often as there are rounds."""

    key: str
    title: str
    # Gives the contestants by name, each a function that measures one round.
    make: Callable
    # Only one for what does not vary.
    rounds: int | None = None


def rate(count, answer, end=None):
    """How many a second, from the start that `answer` tells to its end or a later one."""
    return count / ((end or answer["end"]) - answer["start"]) * 1e9

