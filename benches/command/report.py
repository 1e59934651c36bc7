"""Writes the results for programs (results.json) and for people (docs/benchmarks.md and its chart)."""

import json
import re

from . import chart, ratios
from .costs import UNITS
from .families import LOADS, RATIOS
from .figures import duration, number
from .paths import ROOT, TARGET
from .peers import HUB, OURS, OURS_AS_ASGI_REDIS, OURS_AS_CHANNELS_REDIS, run

PAGE = ROOT / "docs" / "benchmarks.md"
CHART = ROOT / "docs" / "images" / "ratios.svg"
README = ROOT / "README.md"
UNIT_COSTS = ROOT / "docs" / "unit-costs.json"
SCALE = ROOT / "docs" / "design" / "scale.md"
# A command of scripts/scale-model on the page, and what it prints.
EXAMPLE = re.compile(r"```sh\n(scripts/scale-model [^\n]*)\n```\n\n```text\n(.*?)```\n", re.DOTALL)
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
    "redis_each": lambda value: f"{duration(value)} of Redis each",
    "busiest": lambda value: f"busiest master {value:.2f} of the mean",
    "count": lambda value: f"{value:,.0f} messages",
    "reshard_errors": lambda value: f"{value:,.0f} errors while slots moved",
    "failover_errors": lambda value: f"{value:,.0f} errors in planned failovers",
    "gap": lambda value: f"silence of {value:.2f} node timeouts",
    "instructions": lambda value: f"{value:,.0f} instructions of Redis",
    "lost": lambda value: f"{value:,.0f} lost",
    "duplicated": lambda value: f"{value:,.0f} duplicated",
    "rpush": lambda value: f"RPUSH {number(value)}/s",
    "lpop": lambda value: f"LPOP {number(value)}/s",
    "bytes_per_receiver": lambda value: f"{value:,.0f} B per waiting receiver",
    "bytes_per_1000_members": lambda value: f"{value:,.0f} B per 1,000 cached members",
}
COUNTS = {"lost", "duplicated", "reshard_errors", "failover_errors"}

# The peers in the column of ours.
ALL_OURS = (OURS, OURS_AS_CHANNELS_REDIS, OURS_AS_ASGI_REDIS, HUB)

# Why a target may be missed on a machine with few processors, and which figure shows it.
CEILINGS = {
    "send_vs_rpush": "both sides keep the two processors busy, so the ratio is that of the processor time of one message in "
    "the program and in Redis together. The table shows this time beside the rates.",
    "queue_vs_channels_redis": "a worker that takes one message at a time needs a round trip for each. By the processor time "
    "beside the rates, this costs hardly more than redis-rs by hand. The rate of channels_redis varies, because several of its "
    "workers may deliver the same message.",
    "encrypted_vs_plain": "both sides keep the two processors busy. By callgrind of the crates polyval, aes and aes-gcm, AES-GCM itself "
    "is more than half of the cost of sealing and opening (see Instructions). A sealed message is also 48 bytes longer.",
    "group_10k_cpu_vs_asgi_redis": "a call needs so few commands that most of its time in Redis is due to cold caches after "
    "the pause before it. Calls without pauses take a fraction of this time.",
    "group_flatness": "the processes of the members share the processors with the sender and with Redis, and their work for "
    "100,000 members delays the answer to the sender. The call itself does the same work: while these processes are stopped "
    "(`group_flatness_elsewhere`), it takes as long for 100,000 members as for 100. The table shows how long the sender and "
    "Redis have waited for a processor.",
    "cluster_failover_errors": "in this run the load made replicas the masters twice within two node timeouts. The second election has "
    "no votes then, and the master refuses writes for 5 s, which is longer than the command timeout. The load has a pause there now.",
    "single_send_redis_cost": "calling a script costs Redis 20 thousand instructions, and `TIME` in it 9 thousand more, which keeps the "
    "expiry right when the clock of the server steps. Before `push_one.lua` it was 12.1.",
    "echo_vs_daphne": "client, server, worker and Redis share the processors. With the client, an echo uses so much processor "
    "time (beside the rate) that 30 times the rate of daphne would need two processors that are never idle. daphne and its "
    "worker use `echo_cpu_vs_daphne` times as much.",
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
    write_unit_costs(result, spreads)
    before, rest = README.read_text().split(BEGIN)
    README.write_text(before + BEGIN + headline(spreads) + END + rest.split(END)[1])
    print(f"\nwritten: {TARGET / 'results.json'}, {PAGE}, {CHART}")


def unit_costs(result, spreads):
    return {unit: unit.value(result["rounds"], spreads) for unit in UNITS}


def write_unit_costs(result, spreads):
    """Writes the unit costs, and what scripts/scale-model computes from them, if all have been measured."""
    costs = unit_costs(result, spreads)
    if missing := [unit.key for unit, value in costs.items() if value is None]:
        print(f"not written: {UNIT_COSTS}: not measured: {', '.join(missing)}")
        return
    listed = {unit.key: {"value": round(value, 4), "unit": unit.unit, "of": unit.text} for unit, value in costs.items()}
    content = {"command": result["command"], "revision": result["versions"][OURS], "costs": listed}
    UNIT_COSTS.write_text(json.dumps(content, indent=1) + "\n")

    def computed(example):
        program, *options = example[1].split()
        printed = run(ROOT / program, *options)
        return f"```sh\n{example[1]}\n```\n\n```text\n{printed}```\n"

    SCALE.write_text(EXAMPLE.sub(computed, SCALE.read_text()))


def units_of_page(result, spreads):
    rows = [
        [f"`{unit.key}`", unit.text, "not measured" if value is None else f"{number(value)} {unit.unit}".strip()]
        for unit, value in unit_costs(result, spreads).items()
    ]
    text = "What `scripts/scale-model` computes with (see [Scale](design/scale.md)). Times are those of processors."
    return ["## Unit costs", text, table(["key", "cost", "value"], rows)]


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
        *units_of_page(result, spreads),
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

- The receiving process counts deliveries and records their times by a clock that all processes share. A number in each
  message reveals losses and duplicates.
- The limit of `redis-benchmark` is one push and one pop of a message: 1 / (1 / RPUSH + 1 / LPOP), with 16 commands per
  round trip.
- The time of Redis is the time of commands in `INFO commandstats` for each call of `group_send`, including the reads of
  the receivers. Each call is made when Redis is idle. Redis counts the commands of a script twice, as commands and as
  part of the script. The former are subtracted by means of `MONITOR`.
- The calls of asgi_redis block, so its tasks are threads, at most 16 in a process. In `queue`, several workers of
  channels_redis deliver some messages twice, and its rate counts each message once.
- Deliveries of socketioxide and socket.io arrive at WebSockets in one client process. Ours and those of the Python layers
  arrive at the receivers in the processes of the members.
- The axum server by hand has a read buffer of 4 KiB for each socket, as the Hub has, instead of its default of 128 KiB.
- The time of an echo is compared with two PINGs and an echo of an axum server, because an echo needs two round trips to
  Redis and one to the client.
- The processor time of an echo or a handshake is that of the server, the worker and Redis together, from
  `/proc/<pid>/stat`. That of axum by hand is the time of the server alone. Neither includes the client.
- The time of waiting for a processor, per call, is that of all threads of the sender and of Redis, from
  `/proc/<pid>/task/<tid>/schedstat`.
- "Elsewhere" means that the processes of the members are stopped during the calls and read afterwards, as if they had
  their own processors. Otherwise they share those of the sender and of Redis.
- `latency` has one message in flight at a time, and sends the next one after a millisecond. It is compared with PINGs at
  the same pace."""


def facts(result):
    machine, versions = result["machine"], result["versions"]
    rows = [["command", f"`{result['command']}`, {result['seconds']} s of loads"]]
    rows += [[name.replace("_", " "), str(value)] for name, value in machine.items()]
    rows += [[name, version] for name, version in versions.items()]
    return table(["", ""], rows)
