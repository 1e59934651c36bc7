"""The loads of the interface server: echoes through server, Redis and worker, and handshakes."""

import contextlib
import os
import socket
import subprocess
import time
from dataclasses import dataclass

from .children import Crew, Failed, end, processor_seconds, start
from .figures import percentile
from .load import Load, rate
from .paths import PEERS
from .peers import ASGI_REDIS, AXUM, DAPHNE, OURS, REDIS_RS, binary, python_in
from .ratios import Figure, Ratio
from .sizes import CLIENTS, GAP_US, SMALL

TIMEOUT = 20
AT_ONCE = 50
# daphne cannot be run as a module.
DAPHNE_COMMAND = "from daphne.cli import CommandLineInterface; CommandLineInterface.entrypoint()"


def echoes(the):
    contestants = {OURS: lambda: echo(ours(the.server), the.sizes.echo[OURS])}
    # daphne comes with the environment of asgi_redis.
    if ASGI_REDIS in the.peers:
        contestants[DAPHNE] = lambda: echo(daphne(the.server), the.sizes.echo[DAPHNE])
    return contestants


def latencies(the):
    return {OURS: lambda: latency(the.server, the.sizes.pings)}


def handshakes(the):
    return {
        OURS: lambda: connects(ours(the.server), the.sizes.handshakes),
        AXUM: lambda: connects(bare(), the.sizes.handshakes),
    }


LOADS = [
    Load("echo", f"echo: {CLIENTS} sockets through server, Redis and worker, and back", echoes),
    Load("echo_latency", "echo: one socket, one message at a time", latencies),
    Load("handshake", f"handshakes: {AT_ONCE} sockets at a time open and leave", handshakes),
]

RATIOS = [
    Ratio("echo_vs_daphne", "echo", OURS, DAPHNE, at_least=30, label="echo by server and worker, over daphne"),
    Ratio("echo_cpu_vs_daphne", "echo", OURS, DAPHNE, "cpu", inverse=True),
    Figure("echo_p50_vs_floor", "echo_latency", "over_floor", at_most=2.0),
    Ratio("handshake_vs_axum", "handshake", OURS, AXUM, at_least=0.4, label="handshakes, over bare axum"),
    Ratio("handshake_cpu_vs_axum", "handshake", OURS, AXUM, "cpu"),
]


@dataclass
class Serving:
    """The port of a server, and the processes that serve its clients."""

    port: int
    processes: list

    def seconds(self):
        """Returns the processor time that the processes have used."""
        return processor_seconds(self.processes)


@contextlib.contextmanager
def ours(server):
    """The interface server and a worker, each a process."""
    server.clear()
    with Crew() as crew:
        peer = binary(OURS, "interface")
        worker, interface = (peer.start(crew, server, role) for role in ("worker", "interface"))
        worker.ask("work")
        yield Serving(interface.ask("serve")["port"], [server.process, worker.process, interface.process])
    server.clear()


@contextlib.contextmanager
def bare():
    with Crew() as crew:
        axum = crew.start("axum", [str(word) for word in binary(AXUM, "axum_echo").arguments])
        yield Serving(axum.ask("serve")["port"], [axum.process])


@contextlib.contextmanager
def daphne(server):
    """daphne and the loop of a worker, each a process."""
    server.clear()
    python, port = str(python_in("asgi_redis")), free_port()
    folder = PEERS / "python"
    # Both import the layer from this folder, and read this variable.
    os.environ["BENCH_REDIS"] = server.url
    options = {"cwd": folder, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    serving = start("daphne", [python, "-c", DAPHNE_COMMAND, *arguments(port)], **options)
    working = start("daphne-worker", [python, "daphne_worker.py"], **options)
    try:
        await_port(port, serving)
        yield Serving(port, [server.process, working, serving])
    finally:
        end(serving)
        end(working)
    server.clear()


def arguments(port):
    return ["--port", str(port), "--bind", "127.0.0.1", "--verbosity", "0", "daphne_layer:channel_layer"]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def await_port(port, process):
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise Failed("daphne did not start to listen, see its log")


def clients(crew):
    return crew.start("echoes", [str(word) for word in binary(OURS, "echoes").arguments])


def echo(serving, count):
    with serving as there, Crew() as crew:
        client = clients(crew)
        client.ask("open", port=there.port, sockets=CLIENTS)
        before = there.seconds()
        answer = client.ask("echo", count=count, size=SMALL)
        return {"rate": rate(count, answer), "cpu": (there.seconds() - before) / count * 1e6}


def connects(serving, count):
    with serving as there, Crew() as crew:
        before = there.seconds()
        answer = clients(crew).ask("handshakes", port=there.port, count=count, at_once=AT_ONCE)
        return {"rate": rate(count, answer), "cpu": (there.seconds() - before) / count * 1e6}


def latency(server, count):
    """Compares the time of an echo with its minimum: two round trips to Redis, and one to a server."""

    def median_echo(serving):
        with serving as there, Crew() as crew:
            client = clients(crew)
            client.ask("open", port=there.port, sockets=1)
            return percentile(client.ask("latency", count=count, gap_us=GAP_US, size=SMALL)["nanos"], 0.5) / 1e3

    through, alone = median_echo(ours(server)), median_echo(bare())
    with Crew() as crew:
        plain = binary(REDIS_RS, "plain").start(crew, server, "ping")
        ping = percentile(plain.ask("ping", count=count, gap_us=GAP_US)["nanos"], 0.5) / 1e3
    floor = 2 * ping + alone
    return {"p50": through, "floor": floor, "over_floor": through / floor}
