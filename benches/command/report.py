"""Writes the results for programs (results.json) and for people (docs/benchmarks.md and its chart)."""

import json

from . import chart, ratios
from .families import LOADS, RATIOS
from .figures import duration, number
from .paths import ROOT, TARGET
from .peers import HUB, OURS, OURS_AS_ASGI_REDIS, OURS_AS_CHANNELS_REDIS

PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "images" / "ratios.svg"
README = ROOT / "README.md"
# This command replaces the text between these two lines of the README.
BEGIN, END = "<!-- from scripts/bench -->\n", "<!-- end -->\n"

# The text of each figure, in this order.
SHOWN = {
    "rate": lambda value: f"{number(value)}/s",
    "p50": lambda value: f"p50 {duration(value)}",
    "p99": lambda value: f"p99 {duration(value)}",
    "p99.9": lambda value: f"p99.9 {duration(value)}",
    "floor": lambda value: f"{duration(value)} without a server between",
    "waited": lambda value: f"{duration(value)} of waiting for a processor",
    "redis_us": lambda value: f"{duration(value)} of Redis per call",
    "cpu": lambda value: f"{duration(value)} of processors each",
    "bytes": lambda value: f"{value:.0f} B",
    "heap": lambda value: f"{value:,.0f} B on the heap",
    "rss": lambda value: f"{value:,.0f} B in memory",
    "lost": lambda value: f"{value:,.0f} lost",
    "duplicated": lambda value: f"{value:,.0f} duplicated",
    "rpush": lambda value: f"RPUSH {number(value)}/s",
    "lpop": lambda value: f"LPOP {number(value)}/s",
    "bytes_per_receiver": lambda value: f"{value:,.0f} B per waiting receiver",
    "bytes_per_1000_members": lambda value: f"{value:,.0f} B per 1,000 cached members",
}
COUNTS = {"lost", "duplicated"}

# The peers in the column of ours.
ALL_OURS = (OURS, OURS_AS_CHANNELS_REDIS, OURS_AS_ASGI_REDIS, HUB)

# Why a target may be missed on a machine with few processors, and which figure shows it.
CEILINGS = {
    "send_vs_rpush": "both keep the two processors busy, so that the ratio is that of the processor time of one message, in "
    "the program and in Redis together, which stands beside the rates.",
    "queue_vs_channels_redis": "a worker that takes one message at a time reads each in a trip of its own, which takes of the "
    "processors, beside the rates, hardly more than it does with redis-rs by hand. Nor is the rate of channels_redis "
    "steady: how often several workers deliver the same message varies.",
    "encrypted_vs_plain": "both keep the two processors busy. Of what sealing and opening take (see Instructions) more than "
    "half is AES-GCM itself, by callgrind of the crates polyval, aes and aes-gcm, and a sealed message is 48 bytes longer, "
    "which Redis moves, too.",
    "group_10k_cpu_vs_asgi_redis": "a call is so few commands that what Redis takes for it is mostly that processor and memory "
    "have turned to other things since the last one; where calls follow each other at once it is a fraction of that.",
    "group_flatness": "the processes of the members share the processors with the sender and with Redis, and what they do "
    "for 100,000 members at once delays the answer to the sender. What the call itself does is the same: with these "
    "processes standing still (`group_flatness_elsewhere`) it takes as long for 100,000 members as for 100. How long sender "
    "and Redis have been ready and without a processor stands beside the times.",
    "echo_vs_daphne": "client, server, worker and Redis share the processors. With the client's part an echo takes so much of "
    "them (the time beside the rate) that 30 times daphne's rate would need two that are never idle; daphne and its worker "
    "take `echo_cpu_vs_daphne` times as much.",
}


def finish(result, write):
    spreads = {one.key: one.spread(result["rounds"]) for one in RATIOS}
    result["ratios"] = {key: spread and round(spread["median"], 4) for key, spread in spreads.items()}
    result["spread"] = spreads
    result["targets"] = {one.key: one.target() for one in RATIOS}
    print()
    print("\n".join(" ".join(cell.ljust(36) for cell in row) for row in summary(spreads) if row[1] != "not measured"))
    if not write:
        return
    TARGET.mkdir(parents=True, exist_ok=True)
    (TARGET / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    CHART.write_text(chart.draw(spreads))
    PAGE.write_text(page(result, spreads))
    before, rest = README.read_text().split(BEGIN)
    README.write_text(before + BEGIN + headline(spreads) + END + rest.split(END)[1])
    print(f"\nwritten: {TARGET / 'results.json'}, {PAGE}, {CHART}")


# The ratios in the README.
HEADLINE = ("send_vs_rpush", "e2e_vs_channels_redis", "queue_vs_asgi_redis", "echo_vs_daphne", "room_vs_socketio")


def headline(spreads):
    """Returns the line of the README: some of the ratios of the chart."""
    shown = [one for one in RATIOS if one.key in HEADLINE and spreads.get(one.key)]
    texts = [one.label.replace(", over ", f", {number(spreads[one.key]['median'])}\u00d7 ") for one in shown]
    return "Throughput relative to peers: " + "; ".join(texts) + ".\n"


def short(result, spreads):
    """Returns a table of the ratios of the chart, each with its two figures."""
    rows = []
    for one in RATIOS:
        if getattr(one, "label", None) and spreads.get(one.key):
            found = ratios.medians(result["rounds"], one.load)
            ours, theirs = (SHOWN[one.figure](found[name][one.figure]) for name in (one.ours, one.theirs))
            rows.append([one.label, ours, theirs, f"{number(spreads[one.key]['median'])} x"])
    return table(["load, over", "channel-layer", "peer", "ratio"], rows)


def summary(spreads):
    rows = []
    for one in RATIOS:
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
        "![Rates over those of the peers](images/ratios.svg)",
        "## Summary",
        short(result, spreads),
        "## Ratios",
        table(["key", "ratio", "to reach", "reached", "lowest to highest"], summary(spreads)),
        *missed(spreads),
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


def missed(spreads):
    targets = [one for one in RATIOS if spreads[one.key] and not one.met(spreads[one.key]["median"])]
    return [f"Not reached: `{one.key}`: {CEILINGS.get(one.key, 'why is not known.')}" for one in targets]


def instructions(result):
    counted = result.get("instructions")
    if not counted:
        return []
    rows = [[name.replace("_", " "), f"{count:,}"] for name, count in counted.items()]
    return ["## Instructions", "Of one operation, counted by callgrind.", table(["operation", "instructions"], rows)]


def figures(result):
    rows = []
    for load in LOADS:
        found = ratios.medians(result["rounds"], load.key)
        if not found:
            continue
        ours = ", ".join(shown(found.pop(name)) for name in ALL_OURS if name in found)
        others = "<br>".join(f"{name}: {shown(its)}" for name, its in found.items())
        rows.append([load.title, ours, others])
    return rows


def shown(its):
    return ", ".join(tell(its[name]) for name, tell in SHOWN.items() if name in its and (its[name] or name not in COUNTS))


NOTES = """How to read them:

- Deliveries are counted where they arrive, by the receiving process, on the clock that all processes share. Losses and
  duplicates are counted by a number in each message.
- The limit of `redis-benchmark` is one message pushed and popped: 1 / (1 / RPUSH + 1 / LPOP), 16 commands per trip.
- Time of Redis is what `INFO commandstats` counts per call of `group_send`, reads of the receivers included, where each
  call comes when everything has come to rest. What a script
  runs is counted there twice, as its own and as the script's; the former is taken out by what `MONITOR` saw.
- asgi_redis blocks, so that its tasks are threads, at most 16 of one process. In `queue`, several workers of
  channels_redis deliver messages twice; its rate counts each message once.
- Deliveries of socketioxide and socket.io end at WebSockets in one client process, ours and those of the Python layers
  at the receivers in the processes of the members.
- The server of axum by hand has a read buffer of 4 KiB for each socket, as the Hub has, and not its default of 128 KiB.
- The time of an echo is compared with two PINGs and an echo of a bare axum server: two trips to Redis and the one to the
  client are what it takes.
- What an echo or a handshake takes of processors is that of the server, the worker and Redis together, from
  `/proc/<pid>/stat`; of axum by hand that of the server alone. The client's is in neither.
- Waiting for a processor, per call, is that of the threads of sender and Redis together that were ready to run, from
  `/proc/<pid>/task/<tid>/schedstat`.
- "Elsewhere" in the time of a call: the processes of the members stand still during the calls and read afterwards, as if
  they had processors of their own. Here they share those of the sender and of Redis.
- `latency` has one message under way at a time, a millisecond after the last; beside it is a PING at the same pace."""


def facts(result):
    machine, versions = result["machine"], result["versions"]
    rows = [["command", f"`{result['command']}`, {result['seconds']} s of loads"]]
    rows += [[name.replace("_", " "), str(value)] for name, value in machine.items()]
    rows += [[name, version] for name, version in versions.items()]
    return table(["", ""], rows)
