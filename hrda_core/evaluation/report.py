"""The report: one self-contained HTML file of headline figures, tables, charts and pictures. Nothing is loaded."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.evaluation.charts import Chart, render_chart
from hrda_core.evaluation.formatting import DASH, decimals_for, format_number
from hrda_core.evaluation.pictures import shrink
from hrda_core.evaluation.report_style import SCRIPT, STYLE
from hrda_core.whole_file import write_whole

Cell = str | float | None

LONG_SIDE = 512  # px of an embedded picture
CARD_CHARACTERS = 12  # a longer fact reads better as a line of text than as a big number


@dataclass(frozen=True)
class Table:
    """Rows of strings and numbers; the first column names the row. None and NaN show as a dash."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class PictureRow:
    """Pictures (caption, RGB uint8 (H, W, 3)) of one photo, side by side; embedded at 512 px at most."""

    title: str
    pictures: Sequence[tuple[str, NDArray[np.uint8]]]


@dataclass(frozen=True)
class Legend:
    """What the colours (RGB) of the pictures mean."""

    colours: Mapping[str, tuple[int, int, int]]


Item = Table | Chart | PictureRow | Legend


@dataclass(frozen=True)
class Section:
    title: str
    text: str
    items: Sequence[Item]


def write_report(path: Path, title: str, lead: str, facts: Mapping[str, str], sections: Sequence[Section]) -> Path:
    """Write the report to `path`, replacing an older one in one step, and return the path.

    facts: short ones (up to 12 characters) become headline cards, longer ones a list below them.
    All strings are plain text. Raises ValueError for a table row of the wrong length or a picture that is no RGB uint8.
    """
    path = Path(path)
    page = _page(title, lead, facts, sections)
    # File names of photos may hold bytes that are no text; a report must not fail for that.
    write_whole(path, page.encode("utf-8", errors="replace"))
    return path


def _page(title: str, lead: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#part{index}">{escape(part.title)}</a>' for index, part in enumerate(sections))
    navigation = f'<nav aria-label="Sections">{links}</nav>' if len(sections) > 2 else ""
    body = "".join(_section(index, part) for index, part in enumerate(sections))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header><h1>{escape(title)}</h1>{_paragraph(lead, "lead")}{_facts(facts)}{navigation}</header>
{body}
</main>
<dialog aria-label="Picture"><img alt=""><footer><button class="back" aria-label="Previous picture">←</button><p></p>
<button class="next" aria-label="Next picture">→</button><button class="close">Close</button></footer></dialog>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _facts(facts: Mapping[str, str]) -> str:
    entries = {name: str(value).strip() or DASH for name, value in facts.items()}
    short = {name: value for name, value in entries.items() if len(value) <= CARD_CHARACTERS}
    long = {name: value for name, value in entries.items() if name not in short}
    cards = "".join(f'<div class="card">{_fact(name, value)}</div>' for name, value in short.items())
    lines = "".join(f"<div>{_fact(name, value)}</div>" for name, value in long.items())
    html = ""
    if short:
        # Rows as equal as possible: up to six cards in one row, seven to twelve in two, and so on.
        columns = math.ceil(len(short) / math.ceil(len(short) / 6))
        html += f'<dl class="cards" style="--columns: {columns}">{cards}</dl>'
    if long:
        html += f'<dl class="block details">{lines}</dl>'
    return html


def _fact(name: str, value: str) -> str:
    return f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"


def _section(index: int, section: Section) -> str:
    parts = [f'<section id="part{index}"><h2>{escape(section.title)}</h2>{_paragraph(section.text, "text")}']
    for kind, group in groupby(section.items, key=type):
        items = list(group)
        if kind is Chart:
            layout = "charts single" if len(items) == 1 else "charts"
            charts = "".join(render_chart(item) for item in items if isinstance(item, Chart))
            parts.append(f'<div class="{layout}">{charts}</div>')
        else:
            parts += [_block(item) for item in items]
    return "".join([*parts, "</section>\n"])


def _block(item: Item) -> str:
    if isinstance(item, Table):
        return _table(item)
    if isinstance(item, PictureRow):
        return _picture_row(item)
    if isinstance(item, Legend):
        return _legend(item)
    raise TypeError(f"items: {type(item).__name__} is not a Table, Chart, PictureRow or Legend")


def _table(table: Table) -> str:
    for row in table.rows:
        if len(row) != len(table.header):
            raise ValueError(
                f"rows: {list(row)!r} has {len(row)} cells, the header {len(table.header)}; "
                f"give table {table.caption!r} one cell per column"
            )
    columns = [_column([row[index] for row in table.rows]) for index in range(len(table.header))]
    head = "".join(f'<th scope="col"{css}>{escape(name)}</th>' for name, (_, css) in zip(table.header, columns, strict=True))
    body = ""
    for index in range(len(table.rows)):
        cells = [f"<td{css}>{escape(texts[index])}</td>" for texts, css in columns[1:]]
        body += f'<tr><th scope="row"{columns[0][1]}>{escape(columns[0][0][index])}</th>{"".join(cells)}</tr>'
    if not table.rows:
        body = f'<tr><td colspan="{len(table.header)}">No data yet</td></tr>'
    caption = f"<h3>{escape(table.caption)}</h3>" if table.caption else ""
    return (
        f'<div class="block">{caption}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_paragraph(table.note, 'note')}</div>"
    )


def _column(cells: Sequence[Cell]) -> tuple[list[str], str]:
    """Texts of a column and its class attribute. Its numbers share their decimals and stand right-aligned."""
    numbers = [cell for cell in cells if not isinstance(cell, str)]
    decimals = decimals_for(numbers)
    texts = [cell if isinstance(cell, str) else format_number(cell, decimals) for cell in cells]
    return texts, ' class="number"' if numbers else ""


def _picture_row(row: PictureRow) -> str:
    figures = "".join(_figure(row.title, caption, picture) for caption, picture in row.pictures)
    title = f"<h3>{escape(row.title)}</h3>" if row.title else ""
    return f'<div class="block">{title}<div class="pictures">{figures}</div></div>'


def _figure(title: str, caption: str, picture: NDArray[np.uint8]) -> str:
    name = escape(f"{title}: {caption}" if title and caption else title or caption)
    source = _data_uri(picture, caption)
    return (
        f'<figure><button type="button"><img decoding="async" alt="{name}" src="{source}"></button>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _data_uri(picture: NDArray[np.uint8], caption: str) -> str:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ValueError(f"picture {caption!r}: {picture.dtype} {picture.shape}; pass RGB uint8 (height, width, 3)")
    blue_first = cv2.cvtColor(shrink(picture, LONG_SIDE), cv2.COLOR_RGB2BGR)
    options = [cv2.IMWRITE_JPEG_QUALITY, 88, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    jpeg = cv2.imencode(".jpg", blue_first, options)[1].tobytes()
    png = cv2.imencode(".png", blue_first)[1].tobytes()
    # Flat class colours are smaller, and sharp, as PNG; photos are smaller as JPEG.
    kind, data = ("png", png) if len(png) <= len(jpeg) else ("jpeg", jpeg)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _legend(legend: Legend) -> str:
    entries = "".join(
        f'<li><i class="swatch" style="--c: rgb({int(r)}, {int(g)}, {int(b)})"></i>{escape(name)}</li>'
        for name, (r, g, b) in legend.colours.items()
    )
    return f'<ul class="legend">{entries}</ul>'


def _paragraph(text: str, css: str) -> str:
    return f'<p class="{css}">{escape(text)}</p>' if text.strip() else ""
