"""What a caller can correct."""

from __future__ import annotations


class RequestError(ValueError):
    """One sentence for the caller: what is wrong, with its value, and the fix. Answered with status 400."""
