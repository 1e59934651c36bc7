"""Ratios of what was measured, and what each should reach."""

from dataclasses import dataclass
from statistics import median

from .figures import ratios, spread
from .peers import OURS


@dataclass
class Ratio:
    """One figure of one contestant over that of another, in the rounds of a load."""

    key: str
    load: str
    ours: str
    theirs: str
    figure: str = "rate"
    at_least: float | None = None
    at_most: float | None = None
    # For costs: theirs over ours.
    inverse: bool = False
    # What the chart calls it; without, it is not there.
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
    """A figure of ours alone: the median over the rounds, or for what must not happen the worst of them."""

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
    """Of each contestant the medians of its figures."""
    result = {}
    for name, rounds in measured.get(load, {}).items():
        names = dict.fromkeys(figure for figures in rounds for figure in figures)
        result[name] = {
            figure: median(figures[figure] for figures in rounds if figure in figures) for figure in names
        }
    return result
