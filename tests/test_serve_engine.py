"""Many requests, one network: equal answers, shared batches, memory, deadlines, and models that leave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served_model import WAIT, WINDOW, busy_network, in_parallel, micro_checkpoint, photo
from torch import Tensor

from hrda_core.inference.predictor import Predictor
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.tile_queue import TileQueue
from hrda_core.inference.window_network import Part
from hrda_core.models.checkpoints import save_checkpoint
from hrda_core.models.hrda import HRDA
from serve_app.engine import ClientStopped, DeadlinePassed, Engine, EngineClosed, NoMemory, PredictOptions
from serve_app.predict_options import check_tiles

# What a probability may change in a batch that requests share; measured: 2e-7 with convolutional encoders, 3e-6 with MiT.
SHARED_BATCH = 1e-5


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return micro_checkpoint()


@pytest.fixture
def engine(content: dict[str, Any]) -> Iterator[Engine]:
    engine = Engine(content, "cpu", share_batches=True)
    yield engine
    engine.close(drain=0)


def assert_same(answer: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Equal labels where no two classes tie, and the same confidence."""
    assert not isinstance(answer, Exception), answer
    assert np.abs(answer.confidence - expected.confidence).max() <= tolerance
    assert np.mean(answer.labels != expected.labels) <= (1e-3 if tolerance else 0)


# -- answers ----------------------------------------------------------------------------------------------------------


def mixed_images() -> list[Any]:
    sizes = [(1, 1), (64, 64), (50, 64), (64, 200), (131, 77), (150, 150), (9, 300), (64, 64)]
    return [photo(*sizes[i % len(sizes)], seed=i) for i in range(32)]


@pytest.mark.parametrize("encoder", ["test_efficientnet", "mit_b0"])
def test_32_requests_at_once_get_the_very_numbers_of_the_predictor(encoder: str) -> None:
    content, images = micro_checkpoint(encoder=encoder), mixed_images()
    predictor, engine = Predictor(content, "cpu"), Engine(content, "cpu")
    answers = in_parallel(lambda i: engine.predict(images[i], PredictOptions(probabilities=True)), 32)
    for image, answer in zip(images, answers, strict=True):
        (expected,) = predictor.predict([image], probabilities=True)
        assert_same(answer, expected)
        assert np.array_equal(answer.probabilities, expected.probabilities)
    engine.close()


@pytest.mark.parametrize("encoder", ["test_efficientnet", "mit_b0"])
def test_32_requests_that_share_batches_get_the_same_answers(encoder: str) -> None:
    content, images = micro_checkpoint(encoder=encoder), mixed_images()
    predictor, engine = Predictor(content, "cpu"), Engine(content, "cpu", share_batches=True)
    answers = in_parallel(lambda i: engine.predict(images[i]), 32)
    for image, answer in zip(images, answers, strict=True):
        assert_same(answer, predictor.predict([image])[0], SHARED_BATCH)
    statistics = engine.tile_statistics()
    assert sum(size * count for size, count in statistics.batches.items()) == statistics.tiles
    engine.close()


def test_options_are_those_of_the_predictor(content: dict[str, Any], engine: Engine) -> None:
    image = photo(150, 130)
    options = PredictOptions((96, 80), overlap=0.5, blending="smooth", flips=True, thresholds=[0.3, 0.7])
    predictor = Predictor(content, "cpu", window=(96, 80), overlap=0.5, blending="smooth", flips=True, thresholds=[0.3, 0.7])
    assert_same(engine.predict(image, options), predictor.predict([image])[0])
    assert_same(
        engine.predict(image, PredictOptions(thresholds="argmax")), Predictor(content, thresholds="argmax").predict([image])[0]
    )
    assert_same(
        engine.predict(image, PredictOptions(thresholds=0.6)), Predictor(content, thresholds=[0.6, 0.6]).predict([image])[0]
    )
    half = {**content, "preprocessing": {**content["preprocessing"], "scale": 0.5}}
    assert_same(engine.predict(image, PredictOptions(scale=0.5)), Predictor(half, "cpu").predict([image])[0])
    zooms = (0.5, 1.0, 1.5)
    assert_same(engine.predict(image, PredictOptions(zooms=zooms)), Predictor(content, "cpu", zooms=zooms).predict([image])[0])


def test_tiles_of_several_zooms_are_counted_at_the_largest_and_where_they_are_looked_at() -> None:
    measured = Preprocessing((0.0,) * 3, (1.0,) * 3, 1.0, 0, 0, (64, 64), 0.0)  # type: ignore[arg-type]
    assert check_tiles(256, 256, measured) == 16
    assert check_tiles(256, 256, replace(measured, zooms=(2.0,))) == 64
    assert check_tiles(256, 256, replace(measured, zooms=(0.5, 1.0, 2.0))) == 64 + 16 + 4 + 9 + 9
    assert check_tiles(256, 256, replace(measured, zooms=(0.5, 1.0, 2.0), flips=True)) == 160 + 22
    with pytest.raises(ValueError, match=r"scale, zooms up to 10: 101779 tiles .* are more than"):
        check_tiles(1024, 1024, replace(measured, zooms=(9.0, 10.0), overlap=0.5))


def test_the_model_card_is_json_and_tells_what_the_model_is(content: dict[str, Any], tmp_path: Path) -> None:
    engine = Engine(save_checkpoint(tmp_path / "best.pth", content), "cpu")
    card = json.loads(json.dumps(engine.model_card(), allow_nan=False))
    assert card["version"] == engine.weights_version == Predictor(content).weights_version
    assert [c["name"] for c in card["classes"]] == ["background", "damage 1", "damage 2"]
    assert card["classes"][1]["hex"] == "#2800d7"
    assert card["classes"][0]["background"] and not card["classes"][1]["background"]
    assert card["thresholds"] == [0.4, 0.4]
    assert card["metrics"] == {"teacher": {"iou": 0.5, "unknown": None}}
    assert card["preprocessing"]["window"] == [WINDOW, WINDOW]
    assert (card["encoder"], card["provenance"]) == ("test_efficientnet", {"iteration": 6})
    assert "apache-2.0" in card["licence"]
    engine.close()


def test_the_licence_of_mix_transformers_is_named() -> None:
    engine = Engine(micro_checkpoint(encoder="mit_b0"), "cpu")
    assert "no commercial use" in engine.model_card()["licence"]
    engine.close()


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tile_size", (63, 64)),
        ("tile_size", (64, 2049)),
        ("tile_size", 512),
        ("tile_size", (64.5, 64)),
        ("tile_size", "512"),
        ("overlap", 1.0),
        ("overlap", -0.1),
        ("overlap", float("nan")),
        ("overlap", True),
        ("overlap", "0.5"),
        ("blending", "hann"),
        ("scale", 0),
        ("scale", float("inf")),
        ("flips", 1),
        ("zooms", (0.05,)),
        ("zooms", ()),
        ("zooms", 1.0),
        ("zooms", (1.0,) * 10),
        ("thresholds", "best"),
        ("thresholds", 1.5),
        ("thresholds", [0.5, None]),
        ("thresholds", []),
        ("thresholds", {"crack": 0.5}),
        ("probabilities", "yes"),
    ],
)
def test_an_option_out_of_range_is_named_with_its_value_and_the_fix(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}=.*: use ") as error:
        PredictOptions(**{field: value})
    assert str(value)[:10].strip("{}[]'") in str(error.value)


def test_thresholds_must_be_as_many_as_the_model_has_foreground_classes(engine: Engine) -> None:
    with pytest.raises(ValueError, match="this model has 2 foreground classes"):
        engine.predict(photo(64, 64), PredictOptions(thresholds=[0.1, 0.2, 0.3]))


def test_too_many_tiles_are_refused_before_any_work(engine: Engine) -> None:
    image = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (9000, 12000, 3))  # takes no memory
    with pytest.raises(ValueError, match="tiles for an image of 12000x9000 px are more than 50000"):
        engine.predict(image, PredictOptions((64, 64), overlap=0.9))


def test_what_is_no_image_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match=r"pass RGB uint8 \(H, W, 3\)"):
        engine.predict(np.zeros((5, 5), np.uint8))


# -- batches ----------------------------------------------------------------------------------------------------------


class NotedNetwork:
    """Doubles its input, and notes the batches: (size, height, width). A window of ones breaks it."""

    device = torch.device("cpu")

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.batches: list[tuple[int, int, int]] = []
        self.free, self.arrived = threading.Event(), threading.Event()

    def limit(self, windows: Tensor, part: Part = Part.WHOLE) -> int:
        return self.batch

    def __call__(self, windows: Tensor, part: Part = Part.WHOLE) -> Tensor:
        self.arrived.set()
        assert self.free.wait(WAIT)
        self.batches.append((windows.shape[0], windows.shape[2], windows.shape[3]))
        if (windows == 1).flatten(1).all(dim=1).any():
            raise RuntimeError("a window of ones")
        return windows * 2


def windows(count: int, side: int, value: float = 0.5) -> Tensor:
    return torch.full((count, 3, side, side), value)


def test_windows_of_one_shape_share_a_batch_in_the_order_of_asking() -> None:
    network = NotedNetwork(batch=4)
    queue = TileQueue(network)  # type: ignore[arg-type]
    first = queue.submit(windows(1, 8))
    assert network.arrived.wait(WAIT)  # from now on, all wait
    asked = [(2, 8), (1, 16), (1, 8), (2, 8), (1, 8), (3, 16)]
    waiting = [queue.submit(windows(count, side, i / 10)) for i, (count, side) in enumerate(asked)]
    assert len(queue) == 10
    network.free.set()
    for i, (future, (count, side)) in enumerate(zip(waiting, asked, strict=True)):
        assert torch.equal(future.result(WAIT), windows(count, side, i / 10) * 2)
    assert torch.equal(first.result(WAIT), windows(1, 8) * 2)
    # 2 + 1 + 1 of 8 px; the pair that found no room goes after the one of 16 px that came before it, which takes 3 along
    assert network.batches == [(1, 8, 8), (4, 8, 8), (4, 16, 16), (2, 8, 8)]
    assert queue.statistics().batches == {1: 1, 4: 2, 2: 1}
    queue.close()


def test_an_error_reaches_the_request_that_caused_it_alone() -> None:
    network = NotedNetwork(batch=4)
    queue = TileQueue(network)  # type: ignore[arg-type]
    first = queue.submit(windows(1, 8))
    assert network.arrived.wait(WAIT)
    good, bad, other = queue.submit(windows(1, 8, 0.1)), queue.submit(windows(1, 8, 1.0)), queue.submit(windows(2, 8, 0.2))
    network.free.set()
    with pytest.raises(RuntimeError, match="a window of ones"):
        bad.result(WAIT)
    assert torch.equal(good.result(WAIT), windows(1, 8, 0.2))
    assert torch.equal(other.result(WAIT), windows(2, 8, 0.4))
    assert torch.equal(first.result(WAIT), windows(1, 8) * 2)
    queue.close()


def test_an_abandoned_request_costs_no_pass_of_the_network() -> None:
    network = NotedNetwork(batch=1)
    queue = TileQueue(network)  # type: ignore[arg-type]
    first, abandoned, last = (queue.submit(windows(1, 8, value)) for value in (0.1, 0.2, 0.3))
    assert network.arrived.wait(WAIT)
    assert abandoned.cancel()
    network.free.set()
    first.result(WAIT)
    last.result(WAIT)
    assert network.batches == [(1, 8, 8)] * 2
    queue.close()


def test_small_images_fill_batches_that_none_of_them_fills_alone(engine: Engine) -> None:
    with busy_network() as network:
        opener = threading.Thread(target=engine.predict, args=(photo(64, 64),))
        opener.start()
        assert network.arrived.wait(WAIT)
        threads = [threading.Thread(target=engine.predict, args=(photo(64, 64, i),)) for i in range(8)]
        for thread in threads:
            thread.start()
        while engine.tiles_waiting < 8:
            time.sleep(0.01)
        network.free.set()
        for thread in [opener, *threads]:
            thread.join(WAIT)
    assert engine.tile_statistics().batches == {1: 1, 4: 2}


def test_a_small_image_does_not_wait_for_the_whole_of_a_large_one(engine: Engine) -> None:
    large = threading.Thread(target=engine.predict, args=(photo(900, 900),))  # 361 tiles
    large.start()
    while engine.tile_statistics().tiles < 4:
        time.sleep(0.001)
    engine.predict(photo(64, 64))
    assert engine.tile_statistics().tiles < 300
    large.join(WAIT)


# -- memory -----------------------------------------------------------------------------------------------------------


def out_of_memory_above(limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batches of more than `limit` windows run out of memory; returns the list of all batches that are tried."""
    logits, tried = HRDA.logits, []

    def limited(self: HRDA, image: Tensor) -> Tensor:
        tried.append(len(image))
        if len(image) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (simulated)")
        return logits(self, image)

    monkeypatch.setattr(HRDA, "logits", limited)
    return tried


def test_out_of_memory_halves_the_batch_and_goes_on_and_remembers(
    content: dict[str, Any], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [photo(150, 150, i) for i in range(4)]
    expected = Predictor(content, "cpu").predict(images)
    tried = out_of_memory_above(2, monkeypatch)
    for answer, right in zip(in_parallel(lambda i: engine.predict(images[i]), 4), expected, strict=True):
        assert_same(answer, right, SHARED_BATCH)
    assert (engine.tile_batch, engine.tile_statistics().halvings) == (2, 1)
    tried.clear()
    engine.predict(images[0])
    assert max(tried) == 2


def test_no_memory_for_one_tile_is_an_error_and_the_engine_lives_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        out_of_memory_above(0, patch)
        with pytest.raises(NoMemory, match="use a smaller tile_size"):
            engine.predict(photo(64, 64))
    assert engine.predict(photo(64, 64)).labels.shape == (64, 64)


def test_warming_up_finds_the_batch_that_fits(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    out_of_memory_above(1, monkeypatch)
    assert engine.warm_up() > 0
    assert engine.tile_batch == 1


def test_details_that_tiles_share_are_warmed_up_too(engine: Engine) -> None:
    """On a GPU a part of warming up."""
    before = engine.tile_statistics().tiles
    engine._warm_up_shared_details()
    assert engine.tile_statistics().tiles > before
    assert engine.tiles_waiting == 0


# -- deadlines and clients that go --------------------------------------------------------------------------------------


def test_a_request_past_its_deadline_is_given_up_and_blocks_nobody(content: dict[str, Any], engine: Engine) -> None:
    image = photo(100, 100)
    answers: list[Any] = []
    with busy_network() as network:
        patient = threading.Thread(target=lambda: answers.append(engine.predict(image)))
        patient.start()
        assert network.arrived.wait(WAIT)
        start = time.monotonic()
        with pytest.raises(DeadlinePassed, match="took longer than it may"):
            engine.predict(photo(64, 64), deadline=start + 0.2)
        assert 0.2 <= time.monotonic() - start < 2
        assert engine.tiles_waiting <= 1  # the abandoned tile leaves the line at the next batch
        network.free.set()
        patient.join(WAIT)
    assert_same(answers[0], Predictor(content, "cpu").predict([image])[0], SHARED_BATCH)


def test_a_deadline_that_passed_before_starts_nothing(engine: Engine) -> None:
    with pytest.raises(DeadlinePassed):
        engine.predict(photo(64, 64), deadline=time.monotonic() - 1)
    assert engine.tile_statistics().tiles == 0


def test_a_client_that_goes_is_noticed_while_its_tiles_wait(engine: Engine) -> None:
    gone = threading.Event()
    with busy_network() as network:
        threading.Timer(0.2, gone.set).start()
        start = time.monotonic()
        with pytest.raises(ClientStopped):
            engine.predict(photo(64, 64), stop=gone.is_set)
        assert time.monotonic() - start < 2
        network.free.set()
    assert engine.predict(photo(64, 64)).labels.shape == (64, 64)


# -- models that leave --------------------------------------------------------------------------------------------------


def test_closing_lets_requests_end_and_refuses_new_ones(content: dict[str, Any]) -> None:
    engine, image = Engine(content, "cpu"), photo(200, 200)
    answers: list[Any] = []
    with busy_network() as network:
        under_way = threading.Thread(target=lambda: answers.append(engine.predict(image)))
        under_way.start()
        assert network.arrived.wait(WAIT)
        closing = threading.Thread(target=engine.close)
        closing.start()
        time.sleep(0.05)
        with pytest.raises(EngineClosed, match="taken out of service"):
            engine.predict(image)
        network.free.set()
        under_way.join(WAIT)
        closing.join(WAIT)
    assert_same(answers[0], Predictor(content, "cpu").predict([image])[0])
    engine.close()  # twice does no harm
    assert engine.model_card()["version"] == engine.weights_version


def test_closing_does_not_wait_for_ever(content: dict[str, Any]) -> None:
    engine = Engine(content, "cpu")
    with busy_network() as network:
        results: list[Any] = []

        def request() -> None:
            try:
                engine.predict(photo(200, 200))
            except EngineClosed as error:
                results.append(error)

        thread = threading.Thread(target=request)
        thread.start()
        assert network.arrived.wait(WAIT)
        threading.Timer(0.3, network.free.set).start()
        engine.close(drain=0.1)  # ends with the batch that runs
        thread.join(WAIT)
    assert len(results) == 1


def test_another_tile_batch_changes_no_answer(content: dict[str, Any]) -> None:
    engine, image = Engine(content, "cpu", tile_batch=16), photo(300, 300)
    assert_same(engine.predict(image), Predictor(content, "cpu").predict([image])[0], SHARED_BATCH)
    assert max(engine.tile_statistics().batches) == 16
    assert replace(engine.preprocessing, tile_batch=4) == Predictor(content, "cpu").preprocessing
    engine.close()
