"""The pairs of an adaptation benchmark: what is learned from, what is adapted to, and what is reported on.

Photos of one group (a wall, a flight, a stretch of film) show nearly the same, so that no group is ever divided.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrda_core import Dataset
from hrda_core.data.samples import join, spread
from hrda_core.data.synthetic_cracks import CrackSynthesis, synthesize

FRAMES = 10  # of a film that make a group
WATCHED = 24  # photos
CRACK_PAIRS = ("synthetic-cracks", "synthetic-uav", "crack500-uav")


@dataclass(frozen=True)
class Pair:
    """source: labelled. target: its masks serve the oracle, and the labelled photos of the semi-supervised arm, alone.

    groups, origins: of the report's photos, one each.
    """

    name: str
    source: Dataset
    target: Dataset
    report: Dataset
    groups: tuple[str, ...]
    origins: tuple[str, ...]


def synthetic_cracks(folder: Path, textures: str, count: int, label_width: float, label_margin: float) -> Dataset:
    """The generator's images; its settings are the same for all arms, and its seed is not theirs."""
    settings = CrackSynthesis(count=count, textures=textures, label_width=label_width, label_margin=label_margin, seed=1)
    synthesize(folder, settings)
    return Dataset.from_folder(folder)


def crack_pair(name: str, data: Path, synthetic: Dataset | None, without: str = "") -> Pair:
    """`data` holds unlabelled/, val/ and manifest.csv (stem, source, group, ...). `synthetic`: where the pair begins so.

    without: a crack source that is not adapted to, only reported on: how far adapting carries.
    """
    facts = _manifest(data / "manifest.csv")
    unlabelled, val = Dataset.from_folder(data / "unlabelled"), Dataset.from_folder(data / "val")
    if name == "synthetic-cracks":
        assert synthetic is not None
        if without:
            kept = [i for i in range(len(unlabelled)) if facts[Path(unlabelled.name(i)).stem]["source"] != without]
            if len(kept) == len(unlabelled):
                raise ValueError(f"--without {without}: the manifest has no such source")
            name, unlabelled = f"{name}-without-{without}", _take(unlabelled, kept)
        return _pair(name, synthetic, unlabelled, val, facts)
    uav = join([_of_source(unlabelled, facts, "uav"), _of_source(val, facts, "uav")])
    report = in_first_half([_group(uav, i, facts) for i in range(len(uav))])
    held_out = _take(uav, [i for i, here in enumerate(report) if here])
    adapted_to = _take(uav, [i for i, here in enumerate(report) if not here])
    source = synthetic if name == "synthetic-uav" else _of_source(unlabelled, facts, "crack500")
    assert source is not None
    return _pair(name, source, adapted_to, held_out, facts)


def street_pair(synthetic: Path, real: Path) -> Pair:
    """Films: neighbouring frames are a group."""
    report = Dataset.from_folder(real / "val")
    groups = tuple(str(i // FRAMES) for i in range(len(report)))
    origins = tuple(report.name(i).partition("_")[0] for i in range(len(report)))
    source, target = Dataset.from_folder(synthetic), Dataset.from_folder(real / "unlabelled")
    return Pair("street", source, target, report, groups, origins)


def in_first_half(groups: Sequence[str]) -> list[bool]:
    """Whether each photo belongs to the first of two halves of about equal size, which share no group."""
    sizes = {group: groups.count(group) for group in sorted(set(groups))}
    halves: tuple[set[str], set[str]] = (set(), set())
    totals = [0, 0]
    for group in sorted(sizes, key=lambda g: (-sizes[g], g)):  # the largest first, always to the smaller half
        half = 0 if totals[0] <= totals[1] else 1
        halves[half].add(group)
        totals[half] += sizes[group]
    return [group in halves[0] for group in groups]


def watched(pair: Pair) -> Dataset:
    """The report's photos on which curves are drawn: all of them would take longer than the training."""
    return _take(pair.report, spread(len(pair.report), WATCHED))


def with_labels(target: Dataset, chosen: Sequence[int]) -> Dataset:
    """The target with masks for the chosen photos only."""
    assert target.masks is not None
    masks = [target.masks[i] if i in set(chosen) else None for i in range(len(target))]
    return Dataset([target.images[i] for i in range(len(target))], masks, target.classes)


def without_labels(target: Dataset) -> Dataset:
    return replace(target, masks=None)


def _pair(name: str, source: Dataset, target: Dataset, report: Dataset, facts: dict[str, dict[str, str]]) -> Pair:
    stems = [Path(report.name(i)).stem for i in range(len(report))]
    groups = tuple(_group(report, i, facts) for i in range(len(report)))
    return Pair(name, source, target, report, groups, tuple(facts[stem]["source"] for stem in stems))


def _manifest(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["stem"]: row for row in csv.DictReader(file)}


def _group(photos: Dataset, index: int, facts: dict[str, dict[str, str]]) -> str:
    row = facts[Path(photos.name(index)).stem]
    return f"{row['source']}/{row['group']}"


def _of_source(photos: Dataset, facts: dict[str, dict[str, str]], source: str) -> Dataset:
    return _take(photos, [i for i in range(len(photos)) if facts[Path(photos.name(i)).stem]["source"] == source])


def _take(photos: Dataset, indices: Sequence[int]) -> Dataset:
    assert photos.masks is not None
    return Dataset([photos.images[i] for i in indices], [photos.masks[i] for i in indices], photos.classes)
