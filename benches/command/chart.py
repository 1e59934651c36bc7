"""Draws a chart of the ratios of our rates to those of the peers, on a logarithmic scale, for light and dark pages."""

from html import escape
from math import ceil, floor, log10

from .families import RATIOS

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 860, 330, 70, 64, 26, 14

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-size: 16px; font-weight: 600; }
  .quiet, .scale { fill: #59636e; font-size: 12px; }
  .bar { fill: #0a6ebd; }
  .grid { stroke: #d1d9e0; }
  .one { stroke: #59636e; }
  .spread, .target { stroke: #1f2328; }
  .target { stroke-width: 2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .quiet, .scale { fill: #9198a1; }
    .bar { fill: #3f8fd6; }
    .grid { stroke: #3d444d; }
    .one { stroke: #9198a1; }
    .spread, .target { stroke: #f0f6fc; }
  }
"""


def draw(spreads):
    charted = [one for one in RATIOS if getattr(one, "label", None) and spreads.get(one.key)]
    rows = [(one.key, one.label, spreads[one.key], one.at_least) for one in charted]
    values = [value for _, _, spread, _ in rows for value in (spread["lowest"], spread["highest"]) if value > 0] + [1]
    low, high = floor(log10(min(values))), ceil(log10(max(values)))
    height = TOP + ROW * len(rows) + 48

    def across(value):
        return LEFT + (log10(value) - low) / max(1, high - low) * (WIDTH - LEFT - RIGHT)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Rates of channel-layer over those of others">',
        f"<style>{STYLE}</style>",
        '<text class="title" x="16" y="26">channel-layer: messages per second, over those of others</text>',
        '<text class="quiet" x="16" y="46">1 is as fast; each step of the scale is ten times faster</text>',
    ]
    bottom = TOP + ROW * len(rows)
    for power in range(low, high + 1):
        x = across(10**power)
        kind = "one" if power == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
        parts.append(
            f'<text class="scale" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{10**power:,g}\u00d7</text>'
        )
    for at, row in enumerate(rows):
        parts += bar(TOP + at * ROW, across, *row)
    parts.append(
        f'<text class="quiet" x="16" y="{height - 8}">Thin line: lowest to highest round. Upright mark: target.</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def bar(top, across, key, label, spread, target):
    middle = top + ROW / 2
    begin, end = sorted((across(1), across(spread["median"])))
    lowest, highest = across(spread["lowest"]), across(spread["highest"])
    edge = max(highest, across(1), across(target) if target else 0)
    parts = [
        f'<g id="{key}">',
        f'<text x="{LEFT - 14}" y="{middle + 4.5}" text-anchor="end">{escape(label)}</text>',
        f'<rect class="bar" x="{begin:.1f}" y="{middle - BAR / 2}" width="{max(1, end - begin):.1f}" height="{BAR}"/>',
        f'<line class="spread" x1="{lowest:.1f}" x2="{highest:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<text x="{edge + 6:.1f}" y="{middle + 4.5}">{shown(spread["median"])}</text>',
    ]
    # The line at 1 shows a target of 1 already.
    if target and target != 1:
        x = across(target)
        parts.append(f'<line class="target" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 9}" y2="{middle + 9}"/>')
    return [*parts, "</g>"]


def shown(value):
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
