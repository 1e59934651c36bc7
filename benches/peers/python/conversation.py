"""One JSON object per line: commands on standard input, answers on standard output."""

import json
import sys
import time


class Arrivals:
    """Counts deliveries and collects their marks."""

    def __init__(self):
        self.failure = None
        self.clear()

    def clear(self):
        self.count, self.last, self.ids, self.nanos = 0, 0, [], []

    def add(self, message, kind):
        now = time.monotonic_ns()
        self.count += 1
        self.last = now
        if kind != "none":
            mark = int.from_bytes(message["body"][:8], "little")
            if kind == "id":
                self.ids.append(mark)
            else:
                self.nanos.append(max(0, now - mark))

    def progress(self):
        return {"error": self.failure} if self.failure else {"count": self.count}

    def take(self):
        taken = {
            "count": self.count,
            "last": self.last,
            "ids": self.ids,
            "nanos": self.nanos,
            "failure": self.failure,
        }
        self.clear()
        return taken


def body(size, mark="none", number=0):
    """Returns a body of `size` bytes. The first eight bytes are its mark."""
    if mark == "none":
        return b"x" * size
    first = number if mark == "id" else time.monotonic_ns()
    return first.to_bytes(8, "little") + b"x" * (size - 8)


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def reason(error):
    return f"{type(error).__name__}: {error}"
