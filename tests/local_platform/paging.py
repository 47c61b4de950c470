"""Filters, order and pages of the `*.list` methods."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from .call import Call, Refusal

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "eq": operator.eq,
    "!=": operator.ne,
    "in": lambda value, wanted: value in wanted,
    "!in": lambda value, wanted: value not in wanted,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def filtered(rows: list[dict[str, Any]], conditions: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    for condition in conditions or []:
        if condition.get("operator", "=") not in OPERATORS:
            raise Refusal(400, f"filter: unknown operator {condition['operator']!r}")
        holds = OPERATORS[condition.get("operator", "=")]
        wanted = condition["value"]
        if isinstance(wanted, list):
            wanted = frozenset(wanted)  # thousands of ids are common
        rows = [row for row in rows if _holds(holds, row.get(condition["field"]), wanted)]
    return rows


def _holds(holds: Callable[[Any, Any], bool], value: Any, wanted: Any) -> bool:
    try:
        return holds(value, wanted)
    except TypeError:  # an order between None and a number
        return False


def page(
    call: Call, rows: list[dict[str, Any]], convert: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The page that the call asks for, by number or by the cursor `after`. `convert` runs on that page's rows only."""
    rows = filtered(rows, call.get("filter"))
    column = call.get("sort") or "id"
    rows = sorted(rows, key=lambda row: (row.get(column) is None, row.get(column), row["id"]))
    if call.get("sort_order") == "desc":
        rows.reverse()
    size = max(1, min(int(call.get("per_page") or call.platform.per_page), call.platform.per_page))
    start = int(call.get("after")) if call.get("after") else (int(call.get("page") or 1) - 1) * size
    chosen = rows[start : start + size]
    return {
        "total": len(rows),
        "perPage": size,
        "pagesCount": math.ceil(len(rows) / size),
        "entities": [convert(row) for row in chosen] if convert else chosen,
        "after": str(start + size) if start + size < len(rows) else None,
    }
