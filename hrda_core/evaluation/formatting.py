"""How the report writes numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

DASH = "\N{EN DASH}"


def format_number(value: float | None, decimals: int | None = None) -> str:
    """Number for a reader: thousands separated, decimals by size unless given; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if decimals is None:
        decimals = decimals_for([value])
    if value != 0 and abs(value) < 0.5 * 10**-decimals:
        mantissa, exponent = f"{value:.1e}".split("e")  # would be shown as zero
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.{decimals}f}"


def decimals_for(values: Sequence[float | None]) -> int:
    """Decimals that suit all numbers of a column: none for whole numbers, else about three or four digits."""
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    largest = max(known, default=0.0)
    whole = all(value == int(value) for value in known)
    # A float of 0 or 1 is most likely a fraction that happens to be whole.
    if whole and (largest >= 2 or not any(isinstance(value, float) for value in values)):
        return 0
    return next((decimals for limit, decimals in ((1.5, 3), (100, 2), (1000, 1)) if largest < limit), 0)
