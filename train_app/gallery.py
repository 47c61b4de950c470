"""Pictures as HTML for a text widget: a grid that fits any width, each with its caption; browsers load what is in view."""

from __future__ import annotations

import html
from collections.abc import Iterable

GRID = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min({width}px,100%),1fr));gap:12px;align-items:start"
IMAGE = "width:100%;{height}border-radius:3px;background:#eef0f4;display:block"
CAPTION = "font-size:12px;color:#5a6772;overflow:hidden;text-overflow:ellipsis;white-space:nowrap"


def gallery(pictures: Iterable[tuple[str, str]], width: int, height: int = 0) -> str:
    """HTML of (caption, url) pairs.

    Args:
        width: the least of a picture, in pixels; it grows to fill the row.
        height: of every picture, which is cropped to it; 0 = as its own proportions want it.
    """
    image = IMAGE.format(height=f"height:{height}px;object-fit:cover;" if height else "")
    figures = [
        f'<figure style="margin:0;min-width:0"><img loading="lazy" alt="{html.escape(caption)}" '
        f'src="{html.escape(url)}" style="{image}"><figcaption style="{CAPTION}">{html.escape(caption)}</figcaption></figure>'
        for caption, url in pictures
    ]
    return f'<div style="{GRID.format(width=width)}">{"".join(figures)}</div>' if figures else ""
