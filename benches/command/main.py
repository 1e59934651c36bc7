"""The program `scripts/bench`, from its arguments to its exit code."""

import argparse
import contextlib
import os
import platform
import signal
import sys
import time
import traceback

from . import micro, peers, report
from .children import Failed
from .families import LOADS
from .figures import number
from .load import Context
from .redis_server import RedisServer
from .sizes import FULL, QUICK

START = time.monotonic()
# Exceptions of a load that do not end the other loads.
FAULTS = (Failed, peers.Missing, OSError, LookupError, ArithmeticError, ValueError)


def tell(text):
    print(f"[{time.monotonic() - START:4.0f} s] {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures the layer against its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer messages and rounds: under 4 minutes")
    names = [load.key for load in LOADS]
    parser.add_argument("--only", metavar="LOAD", nargs="+", choices=names, help="run only these loads, and write no files")
    arguments = parser.parse_args()
    # `sys.exit` leaves every block, which ends all started processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("scripts/bench: terminated"))
    try:
        return measure(arguments)
    except KeyboardInterrupt:
        print("scripts/bench: interrupted", file=sys.stderr)
        return 130


def measure(arguments):
    sizes = QUICK if arguments.quick else FULL
    missing = peers.set_up(tell)
    everyone = {name: peer for name, peer in peers.all_peers().items() if name not in missing}
    chosen = [load for load in LOADS if not arguments.only or load.key in arguments.only]
    result = {
        "command": "scripts/bench --quick" if arguments.quick else "scripts/bench",
        "machine": machine(),
        "versions": peers.versions(missing),
        "rounds": {},
        "missing": missing,
        "failures": {},
    }
    started = time.monotonic()
    for load in chosen:
        with RedisServer() as server, contextlib.ExitStack() as stack:
            context = Context(sizes, everyone, server, stack, result["failures"])
            result["rounds"][load.key] = run_load(load, context)
    if not arguments.only:
        result["instructions"] = count_instructions(result)
    result["seconds"] = round(time.monotonic() - started)
    report.finish(result, write=not arguments.only)
    return verdict(result)


def run_load(load, context):
    """Runs every contestant once per round, in rotating order, until it fails."""
    tell(f"{load.key}: {load.title}")
    results = {}
    try:
        contestants = load.make(context)
    except FAULTS as fault:
        contestants = {}
        note_failure(context, load.key, fault)
    rounds = load.rounds or context.sizes.rounds
    for turn in range(rounds):
        names = list(contestants)
        shift = turn % max(1, len(names))
        for name in names[shift:] + names[:shift]:
            try:
                figures = contestants[name]()
            except FAULTS as fault:
                note_failure(context, f"{load.key}: {name}", fault)
                del contestants[name]
                continue
            results.setdefault(name, []).append(figures)
            shown = ", ".join(f"{figure} {number(value)}" for figure, value in figures.items())
            tell(f"{load.key} {turn + 1}/{rounds} {name}: {shown}")
    return results


def count_instructions(result):
    tell("micro: counting instructions of small operations with callgrind")
    try:
        return micro.instructions()
    except peers.Missing as reason:
        result["missing"]["callgrind"] = str(reason)
    except Failed as fault:
        result["failures"]["micro"] = str(fault)
    return {}


def note_failure(context, what, fault):
    reason = str(fault) if isinstance(fault, Failed) else "".join(traceback.format_exception_only(fault)).strip()
    context.failures[what] = reason
    tell(f"FAILED {what}: {reason}")


def machine():
    """Describes the machine."""

    def field(path, name, separator=":"):
        with open(path, encoding="utf-8") as file:
            values = [line.split(separator, 1)[1] for line in file if line.startswith(name)]
        return values[0].strip().strip('"') if values else "unknown"

    model = field("/proc/cpuinfo", "model name")
    memory = int(field("/proc/meminfo", "MemTotal").split()[0]) / 1e6
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "system": field("/etc/os-release", "PRETTY_NAME", "="),
        "kernel": platform.release(),
        "load_average_before": round(os.getloadavg()[0], 1),
    }


def verdict(result):
    """Prints what is missing or has failed at the end, where it is noticed. Returns the exit code."""
    for name, reason in result["missing"].items():
        print(f"scripts/bench: missing: {name}: {reason}", file=sys.stderr)
    for name, reason in result["failures"].items():
        print(f"scripts/bench: failed: {name}: {reason}", file=sys.stderr)
    return 1 if result["failures"] else 0
