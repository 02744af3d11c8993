"""A bar chart as SVG, readable on light and on dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

_WIDTH: Final = 860
_LABELS: Final = 390
"""Where bars begin."""
_LONGEST: Final = 400
_ROW: Final = 22
_BAR: Final = 14
_STYLE: Final = """\
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 16px; font-weight: 600 } .panel { font-weight: 600 } .small { font-size: 11px; fill: #57606a }
.gateway { fill: #0969da } .haproxy { fill: #8c959f }
.aiohttp, .aiohttp-uvloop { fill: #bf8700 } .tutorial { fill: #cf222e }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9198a1 }
.gateway { fill: #4493f8 } .haproxy { fill: #7d8590 }
.aiohttp, .aiohttp-uvloop { fill: #d29922 } .tutorial { fill: #f85149 }
}"""


class Bar(NamedTuple):
    """One figure."""

    label: str
    value: float
    kind: str
    """Chooses the colour: gateway, haproxy, aiohttp, aiohttp-uvloop or tutorial."""


class Panel(NamedTuple):
    """Bars on one scale, which begins at zero."""

    title: str
    bars: Sequence[Bar]


def drawing(title: str, subtitle: str, panels: Sequence[Panel]) -> str:
    """The whole picture."""
    parts = [_text(16, 28, title, "title"), _text(16, 46, subtitle, "small")]
    top = 76
    for panel in panels:
        parts.append(_text(16, top, panel.title, "panel"))
        top += 10
        longest = max(bar.value for bar in panel.bars)
        for bar in panel.bars:
            width = bar.value / longest * _LONGEST
            base = top + _BAR - 2
            parts += [
                _text(_LABELS - 8, base, bar.label, anchor="end"),
                f'<rect class="{bar.kind}" x="{_LABELS}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>',
                _text(
                    round(_LABELS + width) + 6, base, f"{bar.value:,.0f}" if bar.value >= 100 else f"{bar.value:.1f}"
                ),
            ]
            top += _ROW
        top += 30
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}" '
        'role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _text(left: int, base: int, text: str, style: str = "", anchor: str = "start") -> str:
    chosen = f' class="{style}"' if style else ""
    return f'<text x="{left}" y="{base}" text-anchor="{anchor}"{chosen}>{escape(text)}</text>'
