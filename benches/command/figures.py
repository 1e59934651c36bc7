"""Figures over rounds: medians with their spread, percentiles, and their texts."""

from math import ceil
from statistics import median


def percentile(values, part):
    """Returns the value that `part` of the values, from 0 to 1, do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * part) - 1)]


def ratios(ours, theirs):
    """Returns our figures divided by theirs of the same round, so that other load on the machine affects both sides."""
    return [mine / other for mine, other in zip(ours, theirs) if other]


def spread(values):
    return {"median": median(values), "lowest": min(values), "highest": max(values)}


def number(value):
    """Formats a number with three significant digits."""
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
