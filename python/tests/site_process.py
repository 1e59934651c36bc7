"""Processes of the site of the tests: its servers and workers."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from redis_server import free_port

HERE = Path(__file__).parent

#: The command of each server, with the processes that it has.
SERVERS = {
    "daphne": (["daphne", "-b", "127.0.0.1", "-p", "{port}", "chatsite.asgi:application"], 1),
    "uvicorn": (["uvicorn", "--port", "{port}", "--workers", "3", "chatsite.asgi:application"], 3),
    "gunicorn": (
        [
            "gunicorn",
            *("--bind", "127.0.0.1:{port}", "--preload", "--workers", "3"),
            *("--worker-class", "uvicorn_worker.UvicornWorker", "--graceful-timeout", "3"),
            "chatsite.asgi:application",
        ],
        3,
    ),
}


class SiteProcess:
    """A process of the site, with its children. Its output is in ``log``."""

    def __init__(self, directory: Path, backend: str, config: dict, module: list[str], redis_url: str):
        self.log = directory / f"{module[0]}-{time.monotonic_ns()}.log"
        variables = {
            "DJANGO_SETTINGS_MODULE": "chatsite.settings",
            "PYTHONPATH": str(HERE),
            "PYTHONUNBUFFERED": "1",
            "TEST_BACKEND": backend,
            "TEST_CONFIG": json.dumps(config),
            "TEST_REDIS": redis_url,
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=HERE,
                env=os.environ | variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Its children end with it.
                start_new_session=True,
            )

    def wait_for_output(self, text: str, seconds: float = 40) -> None:
        self.wait_until(lambda: text in self.log.read_text(), seconds)

    def wait_until(self, condition, seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self, seconds: float = 30) -> int:
        """Stops the process as a deployment does, and returns its status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class SiteServer(SiteProcess):
    """A server of the site, which answers when this object exists."""

    def __init__(self, directory: Path, server: str, backend: str, config: dict, redis_url: str):
        command, processes = SERVERS[server]
        self.port = free_port()
        super().__init__(directory, backend, config, [part.format(port=self.port) for part in command], redis_url)
        seen = set()

        def all_answer():
            try:
                seen.add(self.get("process"))
            except OSError:
                return False
            return len(seen) >= processes

        try:
            self.wait_until(all_answer)
        except BaseException:
            self.kill()
            raise

    def get(self, path: str) -> str:
        # One connection for each request, so that the requests spread over the processes.
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=20) as response:
            return response.read().decode()

    def chat(self, room: str, kind: str = "chat") -> str:
        return f"ws://127.0.0.1:{self.port}/ws/{kind}/{room}/"
