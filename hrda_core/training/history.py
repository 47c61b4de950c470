"""Reading back what a run wrote: metrics.jsonl as series, and charts of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from hrda_core.evaluation.charts import Chart

NETWORKS = ("student", "teacher")

Series = dict[str, list[tuple[float, float]]]


def read_history(directory: Path) -> Series:
    """Every scalar of the run: name -> [(iteration, value)]."""
    series: Series = {}
    path = directory / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        entry = json.loads(line)
        iteration = entry.pop("iteration")
        for name, value in entry.items():
            series.setdefault(name, []).append((iteration, value))
    return series


def loss_charts(history: Series) -> list[Chart]:
    """Losses, trusted share and foreground share of the pseudo-labels, learning rate; only what the run has."""
    losses = {name.removeprefix("loss/"): points for name, points in history.items() if name.startswith("loss/")}
    pseudo = {name.removeprefix("pseudo/"): points for name, points in history.items() if name.startswith("pseudo/")}
    charts = [Chart("Losses", losses)] if losses else []
    if pseudo:
        charts.append(Chart("Pseudo-labels: share of trusted pixels, and of foreground among them", pseudo))
    if "learning_rate" in history:
        charts.append(Chart("Learning rate of the encoder", {"learning rate": history["learning_rate"]}))
    return charts


def label_free_charts(history: Series) -> list[Chart]:
    """Agreement, uncertainty and predicted share of the foreground on target photos, a line per network."""
    groups = {
        "Agreement with itself and with the other network": ("scale_agreement", "flip_agreement", "network_agreement"),
        "Uncertain pixels and entropy": ("uncertain", "entropy"),
        "Predicted foreground over the source's share": ("foreground_against_source",),
    }
    charts = []
    for title, names in groups.items():
        keys = {f"{network} {name.replace('_', ' ')}": f"label_free/{network}/{name}" for network in NETWORKS for name in names}
        lines = {label: history[key] for label, key in keys.items() if key in history}
        if lines:
            charts.append(Chart(title, lines))
    return charts


def validation_chart(histories: Mapping[str, Series], metric: str, title: str) -> Chart | None:
    """One line per run (and network, where a run has both): `metric` such as "foreground_iou"."""
    lines: Series = {}
    for run, history in histories.items():
        for network in NETWORKS:
            points = history.get(f"validation/{network}/{metric}")
            if points:
                lines[f"{run} {network}".strip()] = points
    return Chart(title, lines) if lines else None
