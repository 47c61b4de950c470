"""What a field of the configuration may hold; every message names the field, the value and the fix."""

from __future__ import annotations


def check(ok: bool, name: str, value: object, fix: str) -> None:
    if not ok:
        raise ValueError(f"{name}={value!r}: {fix}")


def one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    check(value in choices, name, value, f"use one of {', '.join(choices)}")


def share(name: str, value: float) -> None:
    check(0 <= value <= 1, name, value, "use a share from 0 to 1")
