"""Which data set plays which role in each mode."""

from __future__ import annotations

from hrda_core.data.samples import Dataset


def roles(mode: str, source: Dataset | None, target: Dataset | None) -> tuple[Dataset, Dataset | None, Dataset | None]:
    """(labelled set to learn from, photos to adapt to, labelled target images for semi-supervised training).

    Raises:
        ValueError: a set that the mode needs is missing or has no masks.
    """
    if mode == "supervised":
        if target is None or len(target.labelled()) == 0:
            raise ValueError("mode='supervised' needs masks of the target, which has none: add them, or use mode='adapt'")
        return target.labelled(), target, None
    if source is None or len(source.labelled()) == 0:
        raise ValueError(f"mode={mode!r} needs a labelled source: give a folder with images/, masks/ and classes.json")
    if mode != "source-only" and target is None:
        raise ValueError(f"mode={mode!r} needs a target: give a folder of photos, or use mode='source-only'")
    if mode != "semi-supervised":
        return source.labelled(), target, None
    labelled = None if target is None else target.labelled()
    if labelled is None or len(labelled) == 0:
        raise ValueError("mode='semi-supervised' needs masks for some target images: add them, or use mode='adapt'")
    return source.labelled(), target, same_classes(labelled, source)


def same_classes(dataset: Dataset | None, reference: Dataset) -> Dataset | None:
    if dataset is None:
        return None
    theirs, ours = [c.name for c in dataset.classes], [c.name for c in reference.classes]
    if theirs != ours:
        raise ValueError(
            f"classes differ: {ours} in the training set, {theirs} in another; give both the same, in the same order"
        )
    return dataset
