"""What loading a file of weights into a network did and did not do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class LoadReport:
    """Outcome of loading weights.

    Attributes:
        loaded: tensors of the network that took their values from the file.
        missing: names in the network that the file does not have; they kept their initial values.
        unexpected: names in the file that the network does not have.
        mismatched: names in both whose shapes differ; the network kept its initial values.
    """

    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.loaded} tensors loaded"]
        for names, what in (
            (self.missing, "missing in the file"),
            (self.unexpected, "unknown to the network"),
            (self.mismatched, "of another shape"),
        ):
            if names:
                parts.append(f"{len(names)} {what} ({_first(names)})")
        return "; ".join(parts) + "."


def _first(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
