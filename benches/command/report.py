"""What was measured, for programs (results.json) and for people (BENCHMARKS.md and its chart)."""

import json

from . import chart, loads, ratios
from .figures import number
from .paths import ROOT, TARGET
from .peers import OURS

PAGE = ROOT / "BENCHMARKS.md"
CHART = ROOT / "benches" / "ratios.svg"

UNITS = {"rate": "/s", "redis_us": " us of Redis", "p50": " us", "p99": " us", "p99.9": " us", "bytes": " B"}
# What each load is judged by, and what is told beside it.
SHOWN = ["rate", "p50", "p99", "p99.9", "redis_us", "bytes", "lost", "duplicated", "rpush", "lpop"]
COUNTS = {"lost", "duplicated"}


def finish(result, write):
    spreads = {one.key: one.spread(result["rounds"]) for one in ratios.ALL}
    result["ratios"] = {key: spread and round(spread["median"], 4) for key, spread in spreads.items()}
    result["spread"] = spreads
    result["targets"] = {one.key: one.target() for one in ratios.ALL}
    print()
    print("\n".join(" ".join(cell.ljust(36) for cell in row) for row in summary(spreads) if row[1] != "not measured"))
    if not write:
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    CHART.write_text(chart.draw(spreads))
    PAGE.write_text(page(result, spreads))
    print(f"\nwritten: {TARGET / 'results.json'}, {PAGE}, {CHART}")


def summary(spreads):
    rows = []
    for one in ratios.ALL:
        spread = spreads[one.key]
        if spread is None:
            rows.append([f"`{one.key}`", "not measured", one.target(), "", ""])
            continue
        value = spread["median"]
        verdict = "" if one.target() == "shown" else "yes" if one.met(value) else "**no**"
        around = f"{number(spread['lowest'])} to {number(spread['highest'])}"
        rows.append([f"`{one.key}`", number(value), one.target(), verdict, around])
    return rows


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(result, spreads):
    parts = [
        "# Benchmarks",
        f"Written by `{result['command']}`, which starts its own servers, installs the peers under `target/`, and runs "
        "the same loads on all of them in one run, interleaved, in an order that rotates. A ratio is the median of the "
        "ratios of the rounds, each of two figures of the same round; beside it are the lowest and the highest.",
        "![Rates over those of the peers](benches/ratios.svg)",
        "## Ratios",
        table(["key", "ratio", "to reach", "reached", "lowest to highest"], summary(spreads)),
        "## Figures",
        "Medians over the rounds. Slow peers get fewer messages of the same size in the same shape of load.",
        table(["load", "ours", "others"], figures(result)),
        NOTES,
        *instructions(result),
        "## Where",
        facts(result),
    ]
    faults = {f"{name} is missing": reason for name, reason in result["missing"].items()} | result["failures"]
    if faults:
        parts.insert(1, "**Not complete.** " + "; ".join(f"{name}: {reason}" for name, reason in faults.items()))
    return "\n\n".join(parts) + "\n"


def instructions(result):
    counted = result.get("instructions")
    if not counted:
        return []
    rows = [[name.replace("_", " "), f"{count:,}"] for name, count in counted.items()]
    return ["## Instructions", "Of one operation, counted by callgrind.", table(["operation", "instructions"], rows)]


def figures(result):
    rows = []
    for load in loads.ALL:
        found = ratios.medians(result["rounds"], load.key)
        if not found:
            continue
        ours = shown(found.pop(OURS)) if OURS in found else ""
        others = "<br>".join(f"{name}: {shown(its)}" for name, its in found.items())
        rows.append([load.title, ours, others])
    return rows


def shown(its):
    order = sorted(its, key=lambda name: SHOWN.index(name) if name in SHOWN else len(SHOWN))
    return ", ".join(one(name, its[name]) for name in order if its[name] or name not in COUNTS)


def one(name, value):
    label = "" if name in {"rate", "redis_us", "bytes"} else f"{name} "
    return f"{label}{number(value)}{UNITS.get(name, '')}"


NOTES = """How to read them:

- Deliveries are counted where they arrive, by the receiving process, on the clock that all processes share. Losses and
  duplicates are counted by a number in each message.
- The limit of `redis-benchmark` is one message pushed and popped: 1 / (1 / RPUSH + 1 / LPOP), 16 commands per trip.
- Time of Redis is what `INFO commandstats` counts per call of `group_send`, reads of the receivers included. What a script
  runs is counted there twice, as its own and as the script's; the former is taken out by what `MONITOR` saw.
- asgi_redis blocks, so that its tasks are threads, at most 16 of one process. In `queue`, several workers of
  channels_redis deliver messages twice; its rate counts each message once.
- Deliveries of socketioxide and socket.io end at WebSockets in one client process, ours and those of the Python layers
  at the receivers in the processes of the members.
- "Elsewhere" in the time of a call: the processes of the members stand still during the calls and read afterwards, as if
  they had processors of their own. Here they share those of the sender and of Redis.
- `latency` has one message under way at a time, a millisecond after the last; beside it is a PING at the same pace."""


def facts(result):
    machine, versions = result["machine"], result["versions"]
    rows = [["command", f"`{result['command']}`, {result['seconds']} s of loads"]]
    rows += [[name.replace("_", " "), str(value)] for name, value in machine.items()]
    rows += [[name, version] for name, version in versions.items()]
    return table(["", ""], rows)
