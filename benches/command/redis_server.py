"""A separate redis-server on a free port, and its statistics."""

import socket
import subprocess
import tempfile
import time

from .children import Failed, end, start

# Redis counts the commands of a script in the statistics of each command and in those of the script.
INSIDE_SCRIPT = b" lua"


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Client:
    """A client with the parts of the Redis protocol that are used here."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(words)] + [b"$%d\r\n%s\r\n" % (len(word), word) for word in words]
        self.socket.sendall(b"".join(parts))

    def read(self):
        line = self.file.readline()
        if not line:
            raise Failed("redis-server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise Failed(f"redis-server: {rest.decode()}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        return [self.read() for _ in range(int(rest))]

    def call(self, *words):
        self.send(*words)
        return self.read()

    def close(self):
        self.file.close()
        self.socket.close()


class RedisServer:
    # The layer is told whether the server is a node of a Redis Cluster.
    cluster = False

    def __init__(self, *options, under=()):
        """Starts a server with more `options`, and `under` another program if one is given."""
        self.folder = tempfile.TemporaryDirectory(prefix="channel-layer-bench-")
        self.port = free_port()
        common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", self.folder.name]
        arguments = [*under, "redis-server", "--port", str(self.port), *common, *options]
        self.process = start("redis-server", arguments, stdout=subprocess.DEVNULL)
        self.client = self._connect()

    def _connect(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                client = Client(self.port)
                # Another program may have taken the port meanwhile.
                if f"process_id:{self.process.pid}\r\n".encode() in client.call("INFO", "server"):
                    return client
                client.close()
            except (OSError, Failed):
                pass
            time.sleep(0.02)
        end(self.process)
        raise Failed("redis-server did not start")

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def clear(self):
        self.client.call("FLUSHALL")

    def key_bytes(self):
        """Returns the sum of MEMORY USAGE of all keys."""
        total, cursor = 0, b"0"
        while True:
            cursor, keys = self.client.call("SCAN", cursor, "COUNT", 1000)
            for key in keys:
                total += self.client.call("MEMORY", "USAGE", key, "SAMPLES", 0) or 0
            if cursor == b"0":
                return total

    def info(self, section):
        lines = self.client.call("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def processor_micros(self):
        """Returns the processor time that the server has used since its start."""
        used = self.info("cpu")
        return (float(used["used_cpu_user"]) + float(used["used_cpu_sys"])) * 1e6

    def begin_cpu(self):
        self.client.call("CONFIG", "RESETSTAT")

    def cpu_micros(self, outside):
        """Returns the time in commands since `begin_cpu`. Commands of scripts are counted once, as part of their script."""
        total = 0.0
        for line in self.client.call("INFO", "commandstats").decode().splitlines():
            if line.startswith("cmdstat_"):
                command, fields = line[len("cmdstat_") :].split(":")
                if command not in {"config|resetstat", "info"}:
                    fields = dict(field.split("=") for field in fields.split(","))
                    total += float(fields["usec"]) * outside.get(command.split("|")[0], 1.0)
        return total

    def shares_outside_scripts(self, action):
        """Returns, for each command that the server runs during `action`, the share of calls outside of scripts."""
        watcher = Client(self.port)
        outside, inside = {}, {}
        try:
            watcher.call("MONITOR")
            action()
            self.client.call("ECHO", "the end of the watch")
            while b'"the end of the watch"' not in (line := watcher.file.readline()):
                head, _, command = line.partition(b'] "')
                counts = inside if head.endswith(INSIDE_SCRIPT) else outside
                name = command.split(b'"')[0].decode().lower()
                counts[name] = counts.get(name, 0) + 1
        finally:
            watcher.close()
        return {name: outside.get(name, 0) / (outside.get(name, 0) + inside[name]) for name in inside}

    def stop(self):
        """Ends the server in order, so that a program around it can write its results."""
        self.client.send("SHUTDOWN", "NOSAVE")
        self.process.wait(60)

    def close(self):
        self.client.close()
        end(self.process)
        self.folder.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
