"""How often each class occurs in the chosen datasets, from the platform's statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import supervisely as sly

from train_app.choices import ProjectChoice
from train_app.role_overview import chosen_datasets


@dataclass
class ClassCounts:
    """By class name: images that show it, and objects."""

    images: Counter[str] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)


def count_classes(api: sly.Api, projects: Sequence[ProjectChoice]) -> ClassCounts:
    """Of all these projects together; classes of equal names are one."""
    counts = ClassCounts()
    for project in projects:
        stats = api.project.get_stats(project.project_id)
        datasets = {dataset.id for dataset in chosen_datasets(api, project)} if project.dataset_ids else None
        _add(counts.images, stats["images"]["objectClasses"], datasets)
        _add(counts.objects, stats["objects"]["items"], datasets)
    return counts


def _add(counter: Counter[str], rows: Sequence[dict[str, Any]], datasets: set[int] | None) -> None:
    for row in rows:
        parts = [part["count"] for part in row["datasets"] if datasets is not None and part["id"] in datasets]
        counter[row["objectClass"]["name"]] += row["total"] if datasets is None else sum(parts)
