"""Everything that a run looks at besides its losses: validation, scores without labels, previews."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.adaptation.step import Learner
from hrda_core.data.samples import Dataset, Image, spread
from hrda_core.evaluation.label_free import LabelFreeScores, label_free_sums
from hrda_core.evaluation.selection import selection_score
from hrda_core.evaluation.thresholds import apply_thresholds
from hrda_core.inference.predictor import Preprocessing, image_probabilities
from hrda_core.training.distributed import ALONE, Ranks
from hrda_core.training.predicting import predicting_windows
from hrda_core.training.stopping import Stopped, StopRequest
from hrda_core.training.validation import Evaluation, evaluate, scalars

NETWORKS = ("student", "teacher")
Picture = TypeVar("Picture")


@dataclass
class Evaluator:
    """Evaluates student and teacher; `Stopped` is raised between two images when a stop is requested.

    Several ranks share the images out, and all have all figures; they raise `Stopped` together.

    photos: of the target, unlabelled. source_fractions: share of each class in the labelled set.
    """

    learner: Learner
    preprocessing: Preprocessing
    device: torch.device
    validation: Dataset | None
    photos: Dataset | None
    has_background: bool
    class_names: tuple[str, ...]
    source_fractions: tuple[float, ...]
    stop: StopRequest
    ranks: Ranks = ALONE

    def validate(self) -> tuple[dict[str, Evaluation], dict[str, float]]:
        """Evaluations by network and the scalars to log; both empty without a validation set."""
        if self.validation is None:
            return {}, {}
        tolerance = self.learner.config.inference.tolerance
        evaluations = {}
        for network in NETWORKS:
            with self._predicting(network) as probabilities:
                evaluations[network] = evaluate(
                    probabilities, self.validation, tolerance=tolerance, progress=self._watch, ranks=self.ranks
                )
        values: dict[str, float] = {}
        for network, result in evaluations.items():
            values |= scalars(network, result, self.validation)
        return evaluations, values

    def label_free(self) -> dict[str, float]:
        """Scalars of fixed photos spread over the target; empty without photos."""
        count = self.learner.config.schedule.label_free_photos
        if self.photos is None or count == 0:
            return {}
        indices = spread(len(self.photos), count)
        values: dict[str, float] = {}
        fit = self.preprocessing.fitted
        plain = replace(self.preprocessing, zooms=(1.0,))  # what the scores were measured with
        if plain.fit_short:
            plain = replace(plain, scale=1.0, fit_short=0, fit_long=0)  # of what is fitted already
        with self._predicting("student", plain) as student, self._predicting("teacher", plain) as teacher:
            own = indices[self.ranks.rank :: self.ranks.size]
            work = partial(label_free_sums, student, teacher, self.photos, own, self.has_background, self._watch, fit)
            pairs = self.ranks.together(work)
        for name, (sums, *others) in zip(NETWORKS, zip(*pairs, strict=True), strict=True):
            for part in others:
                sums.merge(part)
            values |= self._label_free_scalars(name, sums.scores())
        return values

    def preview(self) -> list[tuple[str, Image, NDArray[np.uint8], NDArray[np.float32]]]:
        """(name, photo, labels, confidence) of fixed photos spread over the target, or over the validation set."""
        return self._by_first(self._preview)

    def _preview(self) -> list[tuple[str, Image, NDArray[np.uint8], NDArray[np.float32]]]:
        photos = self.photos if self.photos is not None else self.validation
        count = self.learner.config.schedule.previews
        if photos is None or count == 0:
            return []
        pictures = []
        with self._predicting(self.learner.config.inference.network) as probabilities:
            for index in spread(len(photos), count):
                photo = photos.image(index)
                labels, confidence = apply_thresholds(probabilities(photo), None, self.has_background)
                pictures.append((photos.name(index), photo, labels, confidence))
                self._watch(0, 0)
        return pictures

    def compare(self) -> list[tuple[str, Image, NDArray[np.uint8], NDArray[np.uint8]]]:
        """(name, photo, truth, labels) of fixed labelled images spread over the validation set; empty without one."""
        return self._by_first(self._compare)

    def _compare(self) -> list[tuple[str, Image, NDArray[np.uint8], NDArray[np.uint8]]]:
        count = self.learner.config.schedule.previews
        if self.validation is None or count == 0:
            return []
        labelled, pictures = self.validation.labelled(), []
        with self._predicting(self.learner.config.inference.network) as probabilities:
            for index in spread(len(labelled), count):
                photo, truth = labelled.image(index), labelled.mask(index)
                assert truth is not None  # `labelled` keeps only those
                labels, _ = apply_thresholds(probabilities(photo), None, self.has_background)
                pictures.append((labelled.name(index), photo, truth, labels))
                self._watch(0, 0)
        return pictures

    def _label_free_scalars(self, network: str, scores: LabelFreeScores) -> dict[str, float]:
        prefix = f"label_free/{network}"
        first = 1 if self.has_background else 0
        values = {
            f"{prefix}/scale_agreement": scores.scale,
            f"{prefix}/flip_agreement": scores.flip,
            f"{prefix}/network_agreement": scores.teacher,
            f"{prefix}/uncertain": scores.uncertain,
            f"{prefix}/entropy": scores.entropy,
        }
        for name, fraction in zip(self.class_names[first:], scores.fractions[first:], strict=True):
            values[f"{prefix}/fraction/{name}"] = fraction
        foreground = sum(self.source_fractions[first:]) if self.has_background else None
        values[f"{prefix}/score"] = selection_score(scores, foreground, self.learner.config.adaptation.expected_share)
        # far from 1: the network finds much more, or hardly any, of what the labelled images hold
        source = sum(self.source_fractions[first:])
        if self.has_background and source > 0:
            values[f"{prefix}/foreground_against_source"] = sum(scores.fractions[first:]) / source
        return values

    def _by_first(self, make: Callable[[], list[Picture]]) -> list[Picture]:
        """Pictures, which the first rank makes; on the others, which wait and stop with it, there are none."""
        pictures: list[Picture] = []

        def work() -> None:
            if self.ranks.first:
                pictures.extend(make())

        self.ranks.together(work)
        return pictures

    def _watch(self, done: int, total: int) -> None:
        if self.stop():
            raise Stopped

    @contextmanager
    def _predicting(
        self, network: str, preprocessing: Preprocessing | None = None
    ) -> Iterator[Callable[[Image], NDArray[np.float32]]]:
        """A network in eval mode as a function from images to probabilities."""
        with predicting_windows(self.learner, network, self.device) as windows:
            yield lambda image: image_probabilities(windows, image, preprocessing or self.preprocessing)
