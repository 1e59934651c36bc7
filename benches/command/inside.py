"""The loads inside one process: MemoryLayer, and the memory footprint of layers."""

from .children import Crew
from .load import Load, rate
from .peers import MPSC, OURS, binary
from .ratios import Figure, Ratio
from .sizes import SMALL


def memories(the):
    return {OURS: lambda: memory("memory", the.sizes.memory), MPSC: lambda: memory("mpsc", the.sizes.memory)}


def footprints(the):
    return {OURS: lambda: footprint(the.server, the.sizes)}


LOADS = [
    Load("memory", "MemoryLayer: one task sends, another receives", memories),
    Load("footprint", "bytes on the heap", footprints, rounds=1),
]

RATIOS = [
    Ratio("memory_vs_mpsc", "memory", OURS, MPSC, at_least=0.35, label="MemoryLayer, over a bare tokio channel"),
    Figure("bytes_per_receiver", "footprint", "bytes_per_receiver"),
    Figure("bytes_per_1000_members", "footprint", "bytes_per_1000_members"),
]


def memory(do, count):
    with Crew() as crew:
        process = crew.start("memory", [str(word) for word in binary(OURS, "layer").arguments])
        return {"rate": rate(count, process.ask(do, count=count, size=SMALL))}


def footprint(server, sizes):
    server.clear()
    with Crew() as crew:
        process = binary(OURS, "footprint").start(crew, server, "footprint")
        members = process.ask("members", count=sizes.cached)["bytes"]
        receivers = process.ask("receivers", count=sizes.receivers)["bytes"]
    return {"bytes_per_receiver": receivers, "bytes_per_1000_members": members / sizes.cached * 1000}
