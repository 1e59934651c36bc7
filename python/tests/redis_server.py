"""A real redis-server for tests. It ends with its object, or else with the process that started it."""

import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import redis


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RedisServer:
    """A redis-server on a free port of the loopback address and on a unix socket."""

    def __init__(self, *configuration: str, sentinel: bool = False):
        self.configuration = configuration or ('save ""',)
        self.arguments = ["--sentinel"] if sentinel else []
        self.directory = Path(tempfile.mkdtemp(prefix="channel-layer-"))
        self.socket = self.directory / "redis.sock"
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def start(self) -> None:
        """Starts the server, also after ``kill``. Returns when it answers."""
        file = self.directory / "redis.conf"
        place = [f"port {self.port}", "bind 127.0.0.1", f"dir {self.directory}", f"unixsocket {self.socket}"]
        file.write_text("\n".join([*place, *self.configuration, ""]))
        command = ["redis-server", file, *self.arguments]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 20
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            return self.client.ping()
        except redis.ConnectionError:
            return False

    def kill(self) -> None:
        """Kills the server with all its data, as a crash does."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
