"""From the arms' counts to the tables of a report: mean and spread over seeds, intervals, recovered gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.arms import Result
from benchmarks.intervals import (
    argmax_iou,
    difference,
    foreground_at,
    spearman,
    thresholds_of_the_other_half,
)
from benchmarks.pairs import Pair, in_first_half
from benchmarks.photo_counts import PhotoCounts, threshold_of_share

SOURCE_ONLY = ("source-only", "source-only strong")
LABEL_FREE = ("scale_agreement", "flip_agreement", "network_agreement", "uncertain", "entropy", "foreground_against_source")


def summary(pair: Pair, results: Sequence[Result], network: str, prior: float) -> dict[str, Any]:
    """Plain types. `prior`: share of foreground in the source's labels, for the arms whose output threshold is set by it."""
    arms = list(dict.fromkeys(result.arm for result in results))
    rows: dict[str, Any] = {}
    for arm in arms:
        of_arm = [result for result in results if result.arm == arm]
        rows[arm] = _row(pair, of_arm, network, prior)
        base = [_of(results, SOURCE_ONLY[0], result.seed) for result in of_arm]
        if arm != SOURCE_ONLY[0] and all(other is not None for other in base):
            ours = [result.counts[network] for result in of_arm]
            theirs = [other.counts[network] for other in base if other is not None]
            rows[arm]["over source-only"] = difference(ours, theirs, pair.groups)
    return {"pair": pair.name, "network": network, "photos": len(pair.report), "arms": rows, **_gap(rows)}


def _row(pair: Pair, results: Sequence[Result], network: str, prior: float) -> dict[str, Any]:
    counts = [result.counts[network] for result in results]
    row: dict[str, Any] = {"seeds": [result.seed for result in results]}
    row["argmax IoU"] = [argmax_iou(part) for part in counts]
    if len(pair.report.classes) != 2:
        return row
    half = in_first_half(pair.groups)
    chosen = [foreground_at(part, thresholds_of_the_other_half(part, half)) for part in counts]
    plain = [foreground_at(part, [0.5] * len(pair.groups)) for part in counts]
    shares = [threshold_of_share(result.target[network], prior) for result in results]
    by_prior = [foreground_at(part, [t] * len(pair.groups)) for part, t in zip(counts, shares, strict=True)]
    for label, figures in (("argmax", plain), ("chosen", chosen), ("prior", by_prior)):
        for name in ("iou", "precision", "recall", "tolerant_f1"):
            row[f"{label} {name}"] = [getattr(figure, name) for figure in figures]
    row["by origin"] = {
        origin: [argmax_iou(_only(part, pair, origin)) for part in counts] for origin in sorted(set(pair.origins))
    }
    return row


def _gap(rows: dict[str, Any]) -> dict[str, float]:
    """(adapted - best source-only) / (oracle - best source-only), and adapted / oracle, of the seeds' means."""
    mean = {arm: float(np.nanmean(row["argmax IoU"])) for arm, row in rows.items()}
    base = max((mean[arm] for arm in SOURCE_ONLY if arm in mean), default=None)
    if base is None or "adapted" not in mean or "oracle" not in mean:
        return {}
    if mean["oracle"] <= max(base, 0):
        return {}  # real labels gain nothing, so that there is no gap
    gap = (mean["adapted"] - base) / (mean["oracle"] - base)
    return {"recovered gap": gap, "adapted / oracle": mean["adapted"] / mean["oracle"]}


def markdown(report: dict[str, Any]) -> str:
    """One row per arm: percentages, mean over seeds and range."""
    binary = any("chosen iou" in row for row in report["arms"].values())
    columns = ["argmax IoU"]
    if binary:
        columns += ["chosen iou", "prior iou", "argmax precision", "argmax recall", "argmax tolerant_f1", "chosen tolerant_f1"]
    header = ["arm", *(column.replace("_", " ") for column in columns), "over source-only (95 %)"]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for arm, row in report["arms"].items():
        cells = [_range(row[column]) for column in columns]
        low_high = row.get("over source-only")
        cells.append("" if low_high is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * v for v in low_high)))
        lines.append("| " + " | ".join([arm, *cells]) + " |")
    gap = [f"{name}: {100 * report[name]:.0f} %" for name in ("recovered gap", "adapted / oracle") if name in report]
    return "\n".join([f"{report['pair']}, {report['network']}, {report['photos']} photos", "", *lines, "", ", ".join(gap)])


def label_free_quality(results: Sequence[Result], network: str, figure: str) -> dict[str, Any]:
    """How each score that needs no labels ranks the checkpoints of a pair, the oracle left out."""
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in LABEL_FREE}
    for result in results:
        if result.arm == "oracle":
            continue
        for entry in result.history:
            truth = entry.get(f"validation/{network}/{figure}")
            for name in LABEL_FREE:
                score = entry.get(f"label_free/{network}/{name}")
                if truth is not None and score is not None:
                    points[name].append((score, truth))
    return {name: spearman(*zip(*pairs, strict=True)) for name, pairs in points.items() if len(pairs) >= 3}


def _only(counts: PhotoCounts, pair: Pair, origin: str) -> PhotoCounts:
    keep = np.array([here == origin for here in pair.origins])
    return PhotoCounts(*(part[keep] for part in vars(counts).values()))


def _of(results: Sequence[Result], arm: str, seed: int) -> Result | None:
    return next((result for result in results if (result.arm, result.seed) == (arm, seed)), None)


def _range(values: Sequence[float]) -> str:
    percent = [100 * value for value in values]
    if len(percent) == 1:
        return f"{percent[0]:.1f}"
    return f"{np.mean(percent):.1f} ({min(percent):.1f} to {max(percent):.1f})"
