"""Processes that this command starts and ends. They also end when the command ends for any reason."""

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import subprocess
import time

from .paths import LOGS

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
# Time limit of each command of a load, in seconds.
TIMEOUT = 120
# Time limit of each step of the setup, in seconds.
SETUP_TIMEOUT = 1800
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A load failed."""


def _end_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start(name, arguments, **options):
    """Starts a process whose errors go to a log file, and which ends when this command does."""
    LOGS.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "NODE_NO_WARNINGS": "1"}
    with open(LOGS / f"{name}.log", "ab") as log:
        return subprocess.Popen(
            arguments,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,
            env=environment,
            **options,
        )


def end(process):
    if process.poll() is None:
        process.kill()
    process.wait()


def processor_seconds(processes):
    """Returns the processor time that processes have used."""
    return sum(_processor_seconds(process.pid) for process in processes)


def _processor_seconds(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def call(arguments, **options):
    """Runs a program of the setup. Returns its exit code and output. Kills it with its children if this is interrupted."""
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, text=True, start_new_session=True, **options)
    try:
        out, errors = process.communicate(timeout=SETUP_TIMEOUT)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, out, errors


class Participant:
    """A program that answers commands, one JSON object per line."""

    def __init__(self, name, arguments):
        self.name = name
        self.process = start(name, arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.buffer = b""

    def tell(self, do, **arguments):
        line = json.dumps({"do": do} | arguments) + "\n"
        try:
            self.process.stdin.write(line.encode())
            self.process.stdin.flush()
        except OSError as error:
            raise Failed(f"{self.name} has ended, see its log in {LOGS}") from error

    def hear(self, timeout=TIMEOUT):
        deadline = time.monotonic() + timeout
        parts = [self.buffer]
        while b"\n" not in parts[-1]:
            readable, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            if not readable:
                raise Failed(f"{self.name} did not answer within {timeout} s")
            part = os.read(self.process.stdout.fileno(), 1 << 20)
            if not part:
                raise Failed(f"{self.name} has ended, see its log in {LOGS}")
            parts.append(part)
        line, self.buffer = b"".join(parts).split(b"\n", 1)
        answer = json.loads(line)
        if failure := answer.get("error") or answer.get("failure"):
            raise Failed(f"{self.name}: {failure}")
        return answer

    def ask(self, do, timeout=TIMEOUT, **arguments):
        self.tell(do, **arguments)
        return self.hear(timeout)

    def close(self):
        end(self.process)


class Crew:
    """The participants of one measurement. They end with the block."""

    def __init__(self):
        self.members = []

    def start(self, name, arguments, **connect):
        member = Participant(name, arguments)
        self.members.append(member)
        answer = member.ask("connect", **connect) if connect else {}
        member.port = answer.get("port")
        return member

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.close()


def ask_all(members, do, **arguments):
    """Sends the same command to all, and returns their answers in order."""
    for member in members:
        member.tell(do, **arguments)
    return [member.hear() for member in members]


@contextlib.contextmanager
def stopped(members):
    """Stops the processes of the members within the block."""
    for member in members:
        member.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            member.process.send_signal(signal.SIGCONT)


def await_quiet(receivers, stall):
    """Waits until the receivers have got no delivery for `stall` seconds."""
    return await_count(receivers, math.inf, stall)


def await_count(receivers, count, stall=5.0):
    """Waits until the receivers have `count` deliveries together, or have got none for `stall` seconds."""
    seen, since = -1, time.monotonic()
    while True:
        now = sum(answer["count"] for answer in ask_all(receivers, "progress"))
        if now >= count:
            return now
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > stall:
            return now
        time.sleep(0.02)
