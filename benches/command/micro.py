"""Instructions of small operations (benches/micro.rs), counted by callgrind. The counts are the same in every run."""

import json
import re
import subprocess

from .children import Failed, call
from .paths import LOGS, ROOT, TARGET
from .peers import run

# The difference of the two counts is the cost of the additional operations.
FEW, MORE = 1000, 2000


def instructions():
    """Returns the number of instructions of every operation."""
    run("valgrind", "--version")
    micro = build()
    names = run(micro, "LIST").split()
    return {name: round((count(micro, name, MORE) - count(micro, name, FEW)) / (MORE - FEW)) for name in names}


def build():
    """Builds the program and returns its path."""
    options = ["--bench", "micro", "--no-run", "--no-default-features", "--message-format", "json"]
    command = ["cargo", "bench", *options, "--manifest-path", ROOT / "Cargo.toml", "--target-dir", TARGET / "cargo"]
    for line in run(*command).splitlines():
        artifact = json.loads(line)
        if artifact.get("executable") and artifact["target"]["name"] == "micro":
            return artifact["executable"]
    raise Failed("cargo did not build the program whose instructions are counted")


def count(micro, name, times):
    LOGS.mkdir(parents=True, exist_ok=True)
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={LOGS / 'callgrind'}", micro, name, str(times)]
    code, _, errors = call(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    found = re.search(r"Collected : (\d+)", errors)
    if code != 0 or not found:
        raise Failed(f"callgrind: {errors.strip()[-300:]}")
    return int(found[1])
