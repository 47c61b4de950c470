"""Everything that can be wrong with the data of a run, found before training and told together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hrda_core.config import TrainConfig
from hrda_core.data.crops import scale_of
from hrda_core.data.measuring import Findings, Measured, Role, measure
from hrda_core.data.memory_of_files import FileMemory
from hrda_core.data.parallel import Progress, Stop
from hrda_core.data.samples import Dataset

FAR_SMALLER = 0.5  # of the crop's side


@dataclass(frozen=True)
class DataReport:
    """`problems` stop a training, `warnings` do not; each is a sentence with role, file, value and fix."""

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def raise_if_bad(self) -> None:
        """Raises ValueError with all problems, one a line."""
        if self.problems:
            lines = "\n".join(f"- {problem}" for problem in self.problems)
            raise ValueError(f"the data are not fit for training (data.check=false trains regardless):\n{lines}")


def check_data(
    source: Dataset | None,
    target: Dataset | None,
    validation: Dataset | None,
    config: TrainConfig,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> DataReport:
    """Reads every image, and every mask that the mode uses, once and side by side; later runs recall what they know.

    Problems: files that cannot be read or are cut short; masks of another size than their image, or with values outside the
    classes; a labelled role without masks or without foreground; the same picture (by its pixels, whatever the file) in two
    roles; target images that are all far smaller than the crop. Warnings: classes without pixels; images that are left out
    since they have no mask; pictures that occur twice in a role; some target images far smaller than the crop.

    The target's masks are used in modes "supervised" and "semi-supervised" only, and the source is not used in the former:
    what is not used is not looked at. Memory is bounded, but for some 30 bytes an image.

    Args:
        progress: called with (done, total) over the images of all roles.
        stop: asked between images.

    Raises:
        Stopped: `stop()` became true.
    """
    roles = _roles(source, target, validation, config.mode)
    problems, warnings = Findings(), Findings()
    measured: list[Measured] = []
    done, total = 0, sum(len(role.dataset) for role in roles)
    with FileMemory(config.data.cache) as memory:
        for role in roles:
            shifted = None if progress is None else _shifted(progress, done, total)
            measured.append(measure(role, memory, problems, shifted, stop))
            done += len(role.dataset)
    for role, found in zip(roles, measured, strict=True):
        if role.masks:
            _check_labels(role, found, problems, warnings)
        if role.name == "target" and role.trains:
            _check_sizes(role, found, config, problems, warnings)
    _check_repetitions(roles, measured, config.mode, problems, warnings)
    return DataReport(problems.sentences(), warnings.sentences())


def _roles(source: Dataset | None, target: Dataset | None, validation: Dataset | None, mode: str) -> list[Role]:
    roles = []
    if source is not None and mode != "supervised":
        roles.append(Role("source", source, masks=True, needs_masks=True, trains=True))
    if target is not None:
        masks = mode in ("supervised", "semi-supervised")
        roles.append(Role("target", target, masks, needs_masks=mode == "supervised", trains=mode != "source-only"))
    if validation is not None:
        roles.append(Role("validation", validation, masks=True, needs_masks=True, trains=False))
    return roles


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


def _check_labels(role: Role, found: Measured, problems: Findings, warnings: Findings) -> None:
    images, labelled = len(found.labelled), int(found.labelled.sum())
    if not labelled:
        problems.add("masks", f"{role.name}: none of its {images} images has a mask; put PNG files of the same stem into masks/")
        return
    if role.needs_masks:
        for index in np.flatnonzero(~found.labelled).tolist():
            fix = "it is left out; add the mask if it should count"
            warnings.add(f"{role.name} images without a mask, left out", f"{role.image(index)}: has no mask, so {fix}")
    counts, names = found.pixels[:-1], [c.name for c in role.dataset.classes]
    if not found.pixels.any():
        return  # no mask could be read, which is said already
    first = int(role.dataset.has_background)
    if not counts[first:].any():
        what = f"{', '.join(names[first:])}: 0 pixels in {labelled} masks"
        fix = "check that the values in classes.json are those of the mask files"
        problems.add("foreground", f"{role.name}: there is no foreground at all ({what}); {fix}")
        return
    for name in [name for name, count in zip(names, counts.tolist(), strict=True) if not count]:
        fix = "label some, or take the class out of classes.json"
        warnings.add(f"{role.name} classes", f"{role.name}: class {name!r} has 0 pixels in {labelled} masks; {fix}")


def _check_sizes(role: Role, found: Measured, config: TrainConfig, problems: Findings, warnings: Findings) -> None:
    """Padding never counts, so a target image that fills little of its crop teaches little."""
    data = config.data
    readable = np.flatnonzero(found.sizes[:, 0])
    small: list[tuple[int, int, int]] = []
    for index in readable.tolist():
        height, width = found.sizes[index].tolist()
        scale = scale_of(height, width, data.target_scale, data.fit_short, data.fit_long)
        shown = round(height * scale), round(width * scale)
        if shown[0] < FAR_SMALLER * data.crop_height or shown[1] < FAR_SMALLER * data.crop_width:
            small.append((index, *shown))
    everywhere = len(small) == len(readable)
    crop = f"{data.crop_width}x{data.crop_height}"
    for index, shown_height, shown_width in small:
        height, width = found.sizes[index].tolist()
        scaled = "" if (height, width) == (shown_height, shown_width) else f" ({width}x{height} before scaling)"
        fix = "use a smaller data.crop_height and crop_width, a larger data.target_scale, or larger images"
        sentence = f"{role.image(index)}: {shown_width}x{shown_height}{scaled} is far smaller than the crop {crop}; {fix}"
        (problems if everywhere else warnings).add("target images far smaller than the crop", sentence)


def _check_repetitions(roles: list[Role], measured: list[Measured], mode: str, problems: Findings, warnings: Findings) -> None:
    for group in _same_pictures(measured):
        first: dict[int, int] = {}  # in each role
        for number, index in group:
            if first.setdefault(number, index) != index:
                role, earlier = roles[number], roles[number].dataset.location(first[number])
                said = f"{role.image(index)}: shows the same picture as {earlier}, which so counts twice"
                warnings.add(f"{role.name} pictures that occur twice", f"{said}; remove one unless that is wanted")
        for a, b in combinations(first, 2):
            one, other = roles[a], roles[b]
            said = f"{one.image(first[a])} and {other.image(first[b])} show the same picture: remove it from one of the two"
            known = other.name == "validation"
            reason = "what was trained on cannot be measured on" if known else "a labelled image needs no adaptation"
            harmless = mode == "source-only" and (one.name, other.name) == ("target", "validation")
            (warnings if harmless else problems).add(f"pictures in both {one.name} and {other.name}", f"{said}, since {reason}")


def _same_pictures(measured: list[Measured]) -> Iterator[list[tuple[int, int]]]:
    """Groups of equal pictures as (number of the role, index), in this order."""
    content = np.concatenate([found.content for found in measured]) if measured else np.zeros((0, 16), np.uint8)
    numbers = np.repeat(np.arange(len(measured)), [len(found.content) for found in measured])
    indices = np.concatenate([np.arange(len(found.content)) for found in measured]) if measured else numbers
    halves = np.ascontiguousarray(content).view(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal ones stay in the order of roles and indices
    halves = halves[order]
    equal = (halves[1:] == halves[:-1]).all(axis=1) & halves[1:].any(axis=1)  # all zeros: unreadable
    group: list[tuple[int, int]] = []
    for place in np.flatnonzero(equal).tolist():
        first, second = order[place], order[place + 1]
        if group and group[-1] != (int(numbers[first]), int(indices[first])):
            yield group
            group = []
        if not group:
            group = [(int(numbers[first]), int(indices[first]))]
        group.append((int(numbers[second]), int(indices[second])))
    if group:
        yield group
