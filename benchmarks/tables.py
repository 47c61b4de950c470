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
LABEL_FREE = (
    "score",
    "scale_agreement",
    "flip_agreement",
    "network_agreement",
    "uncertain",
    "entropy",
    "foreground_against_source",
)

SMALL_IS_GOOD = ("uncertain", "entropy")


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


def label_free_quality(results: Sequence[Result], network: str, figure: str) -> dict[str, dict[str, float]]:
    """How each figure that needs no labels ranks checkpoints, the oracle left out. "score" is what training chooses by.

    Figures of which less is better count with a minus.

    spearman: with `figure`, over all checkpoints of the pair. lost: how much better than the one that it ranks first the best
    one is; lost of a seed, lost in a run: the same among the checkpoints of one seed, or of one run, of all of them the most.
    """
    quality = {}
    for name in LABEL_FREE:
        runs = [
            (result.seed, points)
            for result in results
            if result.arm != "oracle"
            if (points := _points(result, network, name, figure))
        ]
        every = [point for _, points in runs for point in points]
        if len(every) >= 3:
            seeds = [[point for seed, points in runs if seed == one for point in points] for one in {seed for seed, _ in runs}]
            lost = {
                "lost": _lost(every),
                "lost of a seed": max(_lost(points) for points in seeds),
                "lost in a run": max(_lost(points) for _, points in runs),
            }
            quality[name] = {"spearman": spearman(*zip(*every, strict=True)), **lost}
    return quality


def _points(result: Result, network: str, name: str, figure: str) -> list[tuple[float, float]]:
    keys, sign = (f"label_free/{network}/{name}", f"validation/{network}/{figure}"), -1 if name in SMALL_IS_GOOD else 1
    return [(sign * entry[keys[0]], entry[keys[1]]) for entry in result.history if all(key in entry for key in keys)]


def _lost(points: Sequence[tuple[float, float]]) -> float:
    return max(truth for _, truth in points) - max(points)[1]


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
