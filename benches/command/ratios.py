"""Ratios of measured figures, and their targets."""

from dataclasses import dataclass
from statistics import median

from .figures import ratios, spread
from .peers import OURS


@dataclass
class Ratio:
    """The ratio of a figure of two contestants, in the rounds of a load."""

    key: str
    load: str
    ours: str
    theirs: str
    figure: str = "rate"
    at_least: float | None = None
    at_most: float | None = None
    # For costs: their figure divided by ours.
    inverse: bool = False
    # Its name in the chart. Without a name it is not in the chart.
    label: str | None = None

    def rounds(self, measured):
        of = measured.get(self.load, {})
        ours = [figures[self.figure] for figures in of.get(self.ours, []) if self.figure in figures]
        theirs = [figures[self.figure] for figures in of.get(self.theirs, []) if self.figure in figures]
        return ratios(theirs, ours) if self.inverse else ratios(ours, theirs)

    def spread(self, measured):
        rounds = self.rounds(measured)
        return spread(rounds) if rounds else None

    def target(self):
        return target(self)

    def met(self, value):
        return met(self, value)


@dataclass
class Figure:
    """A figure of ours without a comparison: the median over the rounds, or the worst round for faults."""

    key: str
    load: str
    figure: str
    at_most: float | None = None
    at_least: float | None = None
    worst: bool = False

    def spread(self, measured):
        found = [figures[self.figure] for figures in measured.get(self.load, {}).get(OURS, [])]
        if not found:
            return None
        return spread(found) | ({"median": max(found)} if self.worst else {})

    def target(self):
        return target(self)

    def met(self, value):
        return met(self, value)


def target(one):
    if one.at_least is not None:
        return f">= {one.at_least:,g}"
    if one.at_most is not None:
        return f"<= {one.at_most:,g}" if one.at_most else "0"
    return "shown"


def met(one, value):
    return (one.at_least is None or value >= one.at_least) and (one.at_most is None or value <= one.at_most)


def medians(measured, load):
    """Returns the medians of the figures of each contestant."""
    result = {}
    for name, rounds in measured.get(load, {}).items():
        names = dict.fromkeys(figure for figures in rounds for figure in figures)
        result[name] = {
            figure: median(figures[figure] for figures in rounds if figure in figures) for figure in names
        }
    return result
