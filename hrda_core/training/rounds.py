"""Rounds of self-training: the teacher labels whole photos once, then the student learns from crops of them.

A whole photo shows more of its surroundings than a crop, can be looked at at several sizes, and its labels do not drift with
what is being learned. This is how self-training without a mean teacher goes (Zou et al., CBST, arXiv 1810.07911).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hrda_core.adaptation.step import Learner
from hrda_core.config import OptimisationConfig, TrainConfig
from hrda_core.data.draws import generator
from hrda_core.data.photo_labels import CHANNELS, PhotoLabels, compact, resized
from hrda_core.data.samples import Dataset, Image
from hrda_core.inference.image_bands import probability_bands
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.training.distributed import ALONE, Ranks
from hrda_core.training.events import Labelling, Listener
from hrda_core.training.predicting import predicting_windows
from hrda_core.training.stopping import Stopped, StopRequest
from hrda_core.whole_file import write_whole


class Stretch(NamedTuple):
    """Iterations `begin` up to, not including, `end`. round: of self-training, from 1 on; 0: without labels of photos."""

    begin: int
    end: int
    round: int


def stretches(config: TrainConfig) -> Iterator[Stretch]:
    """The warm-up and the rounds, of about equal length, of a resolved configuration.

    The learning rate falls over each of them, since labels should come from a network that has settled.
    """
    rounds, first, last = config.adaptation.rounds, config.adaptation.source_warmup, config.optimisation.iterations
    if rounds == 0:
        yield Stretch(0, last, 0)
        return
    starts = [first + (last - first) * i // rounds for i in range(rounds + 1)]
    if first:
        yield Stretch(0, first, 0)
    for i, (begin, end) in enumerate(pairwise(starts), start=1):
        if end > begin:
            yield Stretch(begin, end, i)


def rates_of(stretch: Stretch, optimisation: OptimisationConfig) -> OptimisationConfig:
    """The schedule of the learning rate over one stretch: the whole of it, warm-up included, in that many iterations."""
    length = stretch.end - stretch.begin
    warmup = optimisation.warmup_iterations * length // optimisation.iterations
    return replace(optimisation, iterations=length, warmup_iterations=warmup)


PHOTOS = "photos.txt"  # all photos of the target as they were, in order: labels are kept by position


@dataclass
class PhotoLabeller:
    """Has the teacher label photos into `folder`, where the latest round's labels stay until the next one's.

    Several ranks share the photos out; `Stopped` is raised on all of them between two photos when a stop is requested.
    """

    learner: Learner
    preprocessing: Preprocessing
    photos: Dataset
    folder: Path
    stop: StopRequest
    ranks: Ranks = ALONE

    def labels(self, stretch: Stretch, tell: Listener, keep: bool) -> PhotoLabels:
        """keep: what an earlier start of this run has labelled in this round is not labelled again."""
        folder = self.folder / f"round_{stretch.round}"
        labels = PhotoLabels(folder, self._chosen(stretch.round))
        self.ranks.from_first(partial(self._prepare, folder, keep))
        missing = labels.missing()
        self.ranks.wait()  # all have looked before anyone writes
        self.ranks.together(partial(self._label, labels, missing, stretch.begin, tell))
        return labels

    def forget(self) -> None:
        """Removes the files of the last round."""
        self.ranks.wait()
        if self.ranks.first:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _prepare(self, folder: Path, keep: bool) -> None:
        photos = "\n".join(self.photos.version(i) for i in range(len(self.photos))).encode(errors="surrogateescape")
        listed = self.folder / PHOTOS
        same = listed.is_file() and listed.read_bytes() == photos  # or other photos lie at the positions now
        for other in self.folder.glob("round_*"):
            if other != folder or not (keep and same):
                shutil.rmtree(other)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(listed, photos)

    def _chosen(self, number: int) -> list[int]:
        """Positions of the photos of a round."""
        config, count = self.learner.config, len(self.photos)
        wanted = config.adaptation.round_photos or count
        if wanted >= count:
            return list(range(count))
        return sorted(generator(config.seed, number, "round", 0).choice(count, wanted, replace=False).tolist())

    def _label(self, labels: PhotoLabels, missing: list[int], iteration: int, tell: Listener) -> None:
        rule = self.learner.config.adaptation
        most = min(rule.most_foreground, self.preprocessing.most_foreground)
        settings = replace(self.preprocessing, zooms=rule.teacher_zooms, most_foreground=most)
        own = missing[self.ranks.rank :: self.ranks.size]
        device = next(self.learner.student.parameters()).device
        with predicting_windows(self.learner, "teacher", device) as windows:
            for done, position in enumerate(own):
                if self.stop():
                    raise Stopped
                tell(Labelling(iteration, done=done, total=len(own)))
                labels.write(position, seen_by(windows, self.photos.image(position), settings))
        tell(Labelling(iteration, done=len(own), total=len(own)))


def seen_by(network: WindowNetwork, image: Image, settings: Preprocessing) -> NDArray[np.uint8]:
    """(H, W, 3) RGB -> what data/photo_labels.py stores, at the image's size or, where that is smaller, the network's."""
    seen = np.empty((*image.shape[:2], CHANNELS), np.uint8)
    for top, band in probability_bands(network, image, settings):
        seen[top : top + band.shape[1]] = compact(band)
    height, width = settings.network_size(image.shape[0], image.shape[1])
    return resized(seen, height, width) if height < seen.shape[0] else seen
