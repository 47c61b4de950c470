"""A model in service: one network for many requests at once, whose tiles share batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrda_core.data.samples import ClassInfo, Image, check_image
from hrda_core.inference.image_bands import ProbabilityBand, probability_bands
from hrda_core.inference.predictor import Prediction, Predictor, write_prediction
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.tile_queue import ClientStopped, DeadlinePassed, EngineClosed, RequestNetwork, TileQueue, TileStatistics
from hrda_core.inference.window_network import ran_out_of_memory
from hrda_core.inference.writers import ArrayWriter, Writer
from hrda_core.models.checkpoints import load_checkpoint
from serve_app.model_card import model_card
from serve_app.predict_options import PredictOptions, check_tiles
from serve_app.safe_checkpoints import check_checkpoint

__all__ = ["ClientStopped", "DeadlinePassed", "Engine", "EngineClosed", "NoMemory", "PredictOptions"]

DRAIN = 30.0  # seconds that requests under way have to end when the model is taken out of service


class NoMemory(RuntimeError):
    """Memory ran out, even with batches of one tile."""


class Engine:
    """Predicts for many threads at once.

    The answers are those of `hrda_core.Predictor`, bit for bit where every request has batches of its own. A shared batch adds
    up in another order, which changes probabilities by up to 3e-6 in float32 (measured), and so a label where two classes tie.
    It pays on a GPU, which one tile does not fill; on a CPU it saves nothing with tiles of 512 px, so there it is off.

    Args:
        checkpoint: path of a `.pth` of this project (checked by `check_checkpoint`), or its loaded content.
        device: "auto" takes a GPU where there is one.
        precision: "auto" (bf16 where the GPU has it), "fp32" or "bf16".
        tile_batch: tiles per pass of the network; None is what the checkpoint says.
        share_batches: tiles of different requests share batches; None: on GPUs only.

    Raises:
        ValueError: an argument that does not fit, or a file that is no checkpoint of this project.
    """

    def __init__(
        self,
        checkpoint: str | Path | Mapping[str, Any],
        device: str = "auto",
        precision: str = "auto",
        tile_batch: int | None = None,
        share_batches: bool | None = None,
    ) -> None:
        content = checkpoint if isinstance(checkpoint, Mapping) else load_checkpoint(check_checkpoint(checkpoint))
        self._predictor = Predictor(content, device, precision, tile_batch=tile_batch)
        self.device: torch.device = self._predictor.device
        self.precision = "fp32" if self._predictor.autocast is None else "bf16"
        self.classes: tuple[ClassInfo, ...] = self._predictor.classes
        self.has_background: bool = self._predictor.has_background
        self.preprocessing: Preprocessing = self._predictor.preprocessing
        self.weights_version: str = self._predictor.weights_version
        self._card = model_card(content, self)
        self._queue = TileQueue(self._predictor.network, self.device.type == "cuda" if share_batches is None else share_batches)
        self._active = 0
        self._idle = threading.Condition()
        self._closed = False

    @property
    def foreground(self) -> int:
        """Number of classes that have a threshold: all but background."""
        return len(self.classes) - int(self.has_background)

    def model_card(self) -> dict[str, Any]:
        """Plain types: name and colour of the classes, version, encoder, licence, metrics, provenance, preprocessing."""
        return dict(self._card)

    def warm_up(self) -> float:
        """Runs the network once on one tile and once on a full batch, and returns the seconds that it took.

        The first pass on a GPU loads its kernels; a batch that memory does not hold is halved now, not in a request.

        Raises:
            RuntimeError: no memory even for one tile.
        """
        start = time.monotonic()
        height, width = self.preprocessing.window
        for batch in sorted({1, self.preprocessing.tile_batch}):
            self._queue.submit(torch.zeros(batch, 3, height, width, device=self.device)).result()
        if self.device.type == "cuda":
            self._warm_up_shared_details()
        return time.monotonic() - start

    def _warm_up_shared_details(self) -> None:
        """Tiles of one image share details, of which other batches are made than of tiles."""
        plain = replace(self.preprocessing, scale=1.0, fit_short=0, fit_long=0, zooms=(1.0,))
        height, width = plain.window
        row = np.zeros((height, width * (1 + plain.tile_batch) // 2, 3), dtype=np.uint8)
        for _ in probability_bands(RequestNetwork(self._queue, None, None), row, plain):
            pass

    def predict(
        self,
        image: Image,
        options: PredictOptions | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> Prediction:
        """(H, W, 3) uint8 RGB of any size -> labels, confidence and perhaps probabilities at the image's size.

        Args:
            deadline: instant of `time.monotonic` at which the request is given up.
            stop: asked between tiles and every 50 ms; True gives the request up.

        Raises:
            ValueError: an array that is no image, or options that do not fit the model or the image.
            DeadlinePassed, ClientStopped, EngineClosed: the request was given up.
            NoMemory: even one tile does not fit.
        """
        writer = ArrayWriter()
        self.predict_to(image, writer, options, deadline, stop)
        return Prediction(writer.labels, writer.confidence, writer.probabilities)

    def predict_to(
        self,
        image: Image,
        writer: Writer,
        options: PredictOptions | None = None,
        deadline: float | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """`predict` into a writer, a band of rows at a time (hrda_core/inference/writers.py)."""
        options = options or PredictOptions()
        check_image(image, "image")
        preprocessing = options.preprocessing(self.preprocessing)
        if len(preprocessing.zooms) > 1 and not self.has_background:
            raise ValueError(f"zooms={list(preprocessing.zooms)}: several need a model with a background; use one")
        check_tiles(image.shape[0], image.shape[1], preprocessing)
        thresholds = self._predictor.thresholds_for(options.thresholds_of(self.foreground))
        network = RequestNetwork(self._queue, deadline, stop)
        size = (image.shape[0], image.shape[1])
        with self._under_way():
            bands = _watched(probability_bands(network, image, preprocessing), network)
            try:
                write_prediction(bands, size, len(self.classes), thresholds, self.has_background, writer, options.probabilities)
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
                raise NoMemory(f"memory ran out: use a smaller tile_size or image, or try again later ({error})") from error

    def tile_statistics(self) -> TileStatistics:
        return self._queue.statistics()

    @property
    def tiles_waiting(self) -> int:
        return len(self._queue)

    @property
    def tile_batch(self) -> int:
        """Tiles per pass of the network now; less than at the start where memory ran out."""
        return self._queue.network.batch

    def close(self, drain: float = DRAIN) -> None:
        """Takes the model out of service and frees its memory.

        New requests get `EngineClosed`, and so do those that are still under way after `drain` seconds.
        """
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._active == 0, timeout=drain)
        self._queue.close()
        self._predictor.model.to("meta")  # frees the weights now, also where a request still holds the engine
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """A request that `close` waits for."""
        with self._idle:
            if self._closed:
                raise EngineClosed("the model was taken out of service; send the request again")
            self._active += 1
        try:
            yield
        finally:
            with self._idle:
                self._active -= 1
                self._idle.notify_all()


def _watched(bands: Iterator[ProbabilityBand], network: RequestNetwork) -> Iterator[ProbabilityBand]:
    """Looks at the deadline also where no tile is waited for: resizing a large image takes seconds."""
    for band in bands:
        network.check()
        yield band
