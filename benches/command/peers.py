"""The peers: how each is installed and started."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass

from .children import call
from .paths import BINARIES, ENVIRONMENTS, PEERS, ROOT, TARGET

OURS = "channel-layer"
ENCRYPTED = "channel-layer, encrypted"
OURS_AS_CHANNELS_REDIS = "channel-layer as channels_redis"
OURS_AS_ASGI_REDIS = "channel-layer as asgi_redis"
ASGI_REDIS = "asgi_redis"
CHANNELS_REDIS = "channels_redis"
PUBSUB = "channels_redis pub/sub"
REDIS_RS = "redis-rs by hand"
SOCKETIOXIDE = "socketioxide"
SOCKET_IO = "socket.io"
HUB = "channel-layer's Hub"
AXUM = "axum by hand"
REDIS_BENCHMARK = "redis-benchmark"
MPSC = "tokio mpsc"
DAPHNE = "daphne"

# Any text is a valid key.
KEY = "a key of the benchmark, which is no secret"


class Missing(Exception):
    """A peer cannot be installed here."""


@dataclass
class Peer:
    """A layer that answers the commands of the loads."""

    name: str
    arguments: list
    key: str | None = None
    # The format of messages in Redis, if the program supports several.
    format: str | None = None

    def start(self, crew, server, role):
        slug = "".join(char if char.isalnum() else "-" for char in self.name)
        options = {"key": self.key, "format": self.format}
        options["cluster"] = server.cluster
        connect = {"redis": server.url} | {name: value for name, value in options.items() if value}
        return crew.start(f"{slug}-{role}", [str(word) for word in self.arguments], **connect)


def binary(name, program, key=None, format=None):
    return Peer(name, [BINARIES / program], key, format)


def all_peers():
    python = PEERS / "python"
    channels_redis = [python_in("channels_redis"), python / "channels_redis_peer.py"]
    peers = [
        binary(OURS, "layer"),
        binary(ENCRYPTED, "layer", KEY),
        binary(OURS_AS_CHANNELS_REDIS, "layer", format="channels_redis"),
        binary(OURS_AS_ASGI_REDIS, "layer", format="asgi_redis"),
        binary(REDIS_RS, "plain"),
        binary(SOCKETIOXIDE, "socketioxide"),
        binary(HUB, "hub"),
        binary(AXUM, "bare"),
        Peer(ASGI_REDIS, [python_in("asgi_redis"), python / "asgi_redis_peer.py"]),
        Peer(CHANNELS_REDIS, [*channels_redis, "core"]),
        Peer(PUBSUB, [*channels_redis, "pubsub"]),
        Peer(SOCKET_IO, ["node", TARGET / "node" / "server.js"]),
    ]
    return {peer.name: peer for peer in peers}


def run(*arguments, **options):
    """Runs a program of the setup. The exception contains its output if it fails."""
    words = [str(word) for word in arguments]
    if shutil.which(words[0]) is None:
        raise Missing(f"{words[0]} is not installed")
    try:
        code, out, errors = call(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    except subprocess.TimeoutExpired as reason:
        raise Missing(str(reason)) from reason
    if code != 0:
        raise Missing(f"{' '.join(words[:4])} failed: {(errors or out).strip()[-600:]}")
    return out


def build():
    """Builds our programs, which every measurement needs. Cargo prints its progress."""
    for needed in ("redis-server", "cargo"):
        if shutil.which(needed) is None:
            sys.exit(f"scripts/bench: {needed} is not installed")
    manifest = ["--manifest-path", PEERS / "Cargo.toml", "--target-dir", TARGET / "cargo"]
    command = ["cargo", "build", "--release", *manifest]
    if call([str(word) for word in command])[0] != 0:
        sys.exit("scripts/bench: the build failed")


def environment(name):
    """Creates a Python environment, which the tests use as well."""
    run(ROOT / "scripts" / "python-environments", name)


def python_in(name):
    return ENVIRONMENTS / name / "bin" / "python"


def node_modules():
    place, source = TARGET / "node", PEERS / "node"
    place.mkdir(parents=True, exist_ok=True)
    run("node", "--version")
    wanted, stamp = (source / "package-lock.json").read_bytes(), place / "installed"
    for name in ("package.json", "package-lock.json", "server.js"):
        shutil.copy(source / name, place / name)
    if stamp.exists() and stamp.read_bytes() == wanted:
        return
    run("npm", "ci", "--no-audit", "--no-fund", cwd=place)
    stamp.write_bytes(wanted)


def set_up(tell):
    """Installs all peers. Returns the missing ones, each with the reason."""
    TARGET.mkdir(parents=True, exist_ok=True)
    tell("building the Rust programs")
    build()
    missing = {}
    for names, steps in [
        ([ASGI_REDIS], lambda: environment("asgi_redis")),
        ([CHANNELS_REDIS, PUBSUB], lambda: environment("channels_redis")),
        ([SOCKET_IO], node_modules),
        ([REDIS_BENCHMARK], lambda: run("redis-benchmark", "--version")),
    ]:
        tell(f"setting up {', '.join(names)}")
        try:
            steps()
        except Missing as reason:
            missing |= dict.fromkeys(names, str(reason))
            tell(f"MISSING {', '.join(names)}: {reason}")
    return missing


def versions(missing):
    """Returns the versions of the measured programs."""
    found = {
        "redis-server": run("redis-server", "--version").split("v=")[1].split()[0],
        "rustc": run("rustc", "--version").split()[1],
        OURS: revision(),
    }
    found |= locked("redis", "tokio", "axum", SOCKETIOXIDE, "socketioxide-redis")
    for folder, name in [("asgi_redis", ASGI_REDIS), ("channels_redis", CHANNELS_REDIS)]:
        if name not in missing:
            listed = json.loads(run(python_in(folder), "-m", "pip", "list", "--format", "json"))
            wanted = {"asgi-redis", "asgi_redis", "channels-redis", "channels_redis", "redis", "hiredis", "daphne"}
            # Packages that are measured in the other environment.
            elsewhere = {("asgi_redis", "redis"), ("channels_redis", "daphne")}
            found |= {
                f"{package['name']} (Python)": package["version"]
                for package in listed
                if package["name"] in wanted and (folder, package["name"]) not in elsewhere
            }
    if SOCKET_IO not in missing:
        found["node"] = run("node", "--version").strip().lstrip("v")
        found |= {
            f"{name} (Node)": version
            for name, version in json.loads((PEERS / "node" / "package.json").read_text())["dependencies"].items()
        }
    found["python"] = sys.version.split()[0]
    return found


def revision():
    try:
        return run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()
    except Missing:
        return "unknown"


def locked(*names):
    """Returns the versions of crates in the lock file of the Rust programs."""
    packages = (PEERS / "Cargo.lock").read_text().split("[[package]]")
    found = {}
    for package in packages:
        fields = dict(line.split(" = ", 1) for line in package.splitlines() if " = " in line)
        name = fields.get("name", "").strip('"')
        if name in names:
            found[f"{name} (Rust)"] = fields["version"].strip('"')
    return found
