"""What a user can correct."""

from __future__ import annotations


class UserError(ValueError):
    """One or more sentences for the user: what is wrong, with its value, and the fix. Shown as they are, without a traceback."""
