"""The table of the speed benchmark."""

from __future__ import annotations

from benchmarks.speed import summary, table
from benchmarks.speed_arms import ARMS


def test_the_table_names_the_original_and_gives_ratios_with_their_spread() -> None:
    by_arm = {"reference": {**summary([4.0, 5.0, 6.0]), "peak_mb": 900}, "default": {**summary([2.0, 2.5, 2.0]), "peak_mb": 800}}
    text = table({"mit_b0": {"tasks": {"training step": by_arm}}}, ["reference", "default"])
    assert text.splitlines()[0] == "| encoder, task | original | reference | default | peak, reference / default |"
    row = "| mit_b0, training step | 2.50 s | 5.00 s | 2.50x (2.00-3.00), 2.00 s | 900 MB / 800 MB |"
    assert text.splitlines()[2] == row


def test_approximations_are_told_apart_from_equal_arithmetic() -> None:
    assert ARMS["reference"].reference and not ARMS["default"].reference
    assert ARMS["every window"].overlap == ARMS["every window"].inference_overlap == ARMS["reference"].inference_overlap
    for arm in ARMS.values():
        assert arm.about.startswith("approximation") == (arm.overlap != 0.5 or arm.precision == "bf16")
