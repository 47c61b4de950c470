"""Rare-class sampling gives the published implementation's probabilities (tests/golden/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
from golden_formulas import golden, golden_json

from hrda_core.data.sampling import rare_class_probabilities


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.5])
def test_rare_class_probabilities(temperature: float) -> None:
    expected = golden("rcs")
    pixels = np.zeros(19, dtype=np.int64)
    for entry in golden_json("rcs_sample_class_stats"):
        for key, count in entry.items():
            if key != "file":
                pixels[int(key)] += count
    ours = rare_class_probabilities(pixels, temperature)
    theirs = np.zeros(19)
    theirs[expected["classes"]] = expected[f"probs_T{temperature}"]
    assert np.allclose(ours, theirs, rtol=1e-4, atol=1e-12)
    assert np.argsort(pixels[pixels > 0], kind="stable").tolist() == [
        np.flatnonzero(pixels).tolist().index(c) for c in expected["classes"].tolist()
    ]
