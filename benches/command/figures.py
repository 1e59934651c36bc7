"""Figures over rounds: medians with their spread, percentiles, and how they are shown."""

from math import ceil
from statistics import median


def percentile(values, part):
    """The value that `part` of all, from 0 to 1, do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * part) - 1)]


def ratios(ours, theirs):
    """Ours over theirs, each of the same round, so that what else the machine did weighs on both sides."""
    return [mine / other for mine, other in zip(ours, theirs) if other]


def spread(values):
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def number(value):
    """Three digits that count."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g} M"
    if size >= 1e5:
        return f"{value / 1e3:.0f} k"
    if size >= 1e3:
        return f"{value / 1e3:.3g} k"
    if size >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def duration(micros):
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if micros >= size:
            return f"{micros / size:.3g} {unit}"
    return f"{micros:.3g} us"
