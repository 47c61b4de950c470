"""Folders of photos: what is written, what is skipped, what is listed, and what is refused."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_predictor import checkpoint, photo

from hrda_core.__main__ import main
from hrda_core.data.samples import Dataset, read_classes, read_image
from hrda_core.inference.folder import predict_folder
from hrda_core.inference.photo_writers import OverlayWriter
from hrda_core.inference.predictor import Predictor
from hrda_core.inference.tile_queue import TileQueue
from hrda_core.models.checkpoints import save_checkpoint


@pytest.fixture(scope="module")
def binary() -> dict[str, Any]:
    return checkpoint()


@pytest.fixture(scope="module")
def three() -> dict[str, Any]:
    return checkpoint(3, background=False)


def write_photos(folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), photo(60 + seed, 70, seed))


def files(folder: Path) -> list[str]:
    """Of all outputs, as relative paths."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.parent != folder)


def stamps(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in files(folder)}


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "images"])
def test_a_folder_of_photos(three: dict[str, Any], tmp_path: Path, inside: str) -> None:
    write_photos(tmp_path / "in" / inside, "b.png", "a.jpg")
    (tmp_path / "in" / inside / "notes.txt").write_text("x")
    predictor, heard = Predictor(three, "cpu"), []
    result = predict_folder(predictor, tmp_path / "in", tmp_path / "out", lambda done, total: heard.append((done, total)))
    assert (result.written, result.skipped, result.failed) == (2, 0, [])
    assert heard == [(1, 2), (2, 2)]
    assert read_classes(tmp_path / "out" / "classes.json") == predictor.classes
    assert files(tmp_path / "out") == ["masks/a.png", "masks/b.png", "overlays/a.jpg", "overlays/b.jpg"]
    labels = predictor.predict([tmp_path / "in" / inside / "b.png"])[0].labels
    mask = cv2.imread(str(tmp_path / "out" / "masks" / "b.png"), cv2.IMREAD_UNCHANGED)
    values = np.array([5, 15, 25, *[255] * 253], np.uint8)  # as in classes.json; 255 = no class
    assert (mask == values[labels]).all()
    overlay = cv2.imread(str(tmp_path / "out" / "overlays" / "b.jpg"))
    assert overlay.shape == (60, 70, 3)


def test_confidence_and_probabilities_on_request(three: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "a.png")
    predictor, out = Predictor(three, "cpu"), tmp_path / "out"
    predict_folder(predictor, tmp_path / "in", out, confidence=True, probabilities=True)
    assert files(out) == ["confidence/a.png", "masks/a.png", "overlays/a.jpg", "probabilities/a.npz"]
    expected = predictor.predict([tmp_path / "in" / "a.png"], probabilities=True)[0]
    confidence = cv2.imread(str(out / "confidence" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(confidence / 255 - expected.confidence).max() <= 0.5 / 255 + 1e-6
    with np.load(out / "probabilities" / "a.npz") as content:
        assert content["probabilities"].dtype == np.float16
        assert expected.probabilities is not None
        assert np.abs(content["probabilities"] - expected.probabilities).max() < 1e-3


def test_sub_folders_keep_their_place(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "a.png", "day 1/a.png", "day 1/north/b.c.jpg", ".hidden/x.png")
    assert predict_folder(Predictor(binary, "cpu"), tmp_path / "in", tmp_path / "out").written == 3
    assert files(tmp_path / "out" / "masks") == ["day 1/a.png", "day 1/north/b.c.png"]
    assert (tmp_path / "out" / "masks" / "a.png").is_file()
    assert (tmp_path / "out" / "overlays" / "day 1" / "north" / "b.c.jpg").is_file()


def test_outputs_among_the_photos_are_no_photos(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "sub/b.png")
    for skipped in (0, 2):
        result = predict_folder(Predictor(binary, "cpu"), tmp_path, tmp_path)
        assert (result.written + result.skipped, result.skipped) == (2, skipped)


def test_predictions_are_a_data_set(three: dict[str, Any], tmp_path: Path) -> None:
    """Masks and classes.json beside the photos make a labelled set with the predictor's own indices."""
    write_photos(tmp_path / "images", "a.png")
    predict_folder(Predictor(three, "cpu"), tmp_path, tmp_path)
    mask = Dataset.from_folder(tmp_path).mask(0)
    assert mask is not None
    assert (mask == Predictor(three, "cpu").predict([tmp_path / "images" / "a.png"])[0].labels).all()


def test_a_single_photo(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path, "a.png", "b.png")
    assert predict_folder(Predictor(binary, "cpu"), str(tmp_path / "b.png"), str(tmp_path / "out")).written == 1
    assert files(tmp_path / "out") == ["masks/b.png", "overlays/b.jpg"]


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_what_is_there_is_skipped(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "a.png", "b.png", "c.png")
    predictor, out = Predictor(binary, "cpu"), tmp_path / "out"
    predict_folder(predictor, tmp_path / "in", out)
    (out / "overlays" / "b.jpg").unlink()
    before = stamps(out)
    result = predict_folder(Predictor(binary, "cpu", tile_batch=1), tmp_path / "in", out)
    assert (result.written, result.skipped) == (1, 2)
    after = stamps(out)
    assert sorted(name for name in after if after[name] != before.get(name)) == ["masks/b.png", "overlays/b.jpg"]
    assert predict_folder(predictor, tmp_path / "in", out, confidence=True).written == 3  # their confidence was missing
    assert predict_folder(predictor, tmp_path / "in", out, overwrite=True).written == 3


def test_an_interrupted_run_goes_on(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", *(f"{name}.png" for name in "abcdefghij"))
    predictor, out = Predictor(binary, "cpu"), tmp_path / "out"

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, tmp_path / "in", out, stop)
    written = len(list((out / "masks").iterdir()))
    assert 2 <= written < 10  # those that were reported, and perhaps those that were nearly done
    result = predict_folder(predictor, tmp_path / "in", out)
    assert (result.written, result.skipped) == (10 - written, written)


def test_a_photo_that_was_stopped_in_the_middle_leaves_no_file(
    binary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "in", "a.png")
    cv2.imwrite(str(tmp_path / "in" / "b.png"), photo(60, 500))  # several windows
    predictor, network = Predictor(binary, "cpu"), Predictor(binary, "cpu").model
    first_asked, stopped = threading.Event(), threading.Event()

    def read(path: Path) -> Any:
        if path.name == "b.png":  # photos are read side by side; were it the first in line, the first would wait for it
            assert first_asked.wait(60)
        return read_image(path)

    def logits(windows: torch.Tensor) -> torch.Tensor:
        first_asked.set()
        if windows.shape[-1] > 70:  # the second photo
            assert stopped.wait(60)
            time.sleep(0.3)  # the first windows take longer than it takes to notice
        return network.logits(windows)

    def stop(done: int, total: int) -> None:
        stopped.set()
        raise KeyboardInterrupt

    monkeypatch.setattr("hrda_core.inference.folder.read_image", read)
    monkeypatch.setattr(predictor.model, "logits", logits)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(predictor, tmp_path / "in", tmp_path / "out", stop, probabilities=True)
    assert files(tmp_path / "out") == ["masks/a.png", "overlays/a.jpg", "probabilities/a.npz"]


def test_an_error_while_predicting_ends_the_run(binary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(windows: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the device fell off")

    write_photos(tmp_path / "in", "a.png", "b.png", "c.png")
    predictor = Predictor(binary, "cpu")
    monkeypatch.setattr(predictor.model, "logits", fail)
    with pytest.raises(RuntimeError, match="the device fell off"):
        predict_folder(predictor, tmp_path / "in", tmp_path / "out")
    assert files(tmp_path / "out") == []


def test_on_a_gpu_photos_share_batches(binary: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of a CPU here: the network then sees windows of several photos at once, and says the same of them."""
    write_photos(tmp_path / "in", *(f"{name}.png" for name in "abcd"))
    for path in (tmp_path / "in").iterdir():
        cv2.imwrite(str(path), photo(64, 64, ord(path.stem)))  # alike in size
    predictor, sizes = Predictor(binary, "cpu"), list[int]()
    expected = predictor.predict(sorted((tmp_path / "in").iterdir()))
    logits = predictor.model.logits

    def count(windows: torch.Tensor) -> torch.Tensor:
        sizes.append(len(windows))
        time.sleep(0.2)  # so that the others come to wait in line
        return logits(windows)

    monkeypatch.setattr(predictor.model, "logits", count)
    monkeypatch.setattr("hrda_core.inference.folder.TileQueue", lambda network, share: TileQueue(network, True))
    assert predict_folder(predictor, tmp_path / "in", tmp_path / "out", photos_at_once=4).written == 4
    assert sum(sizes) == 4 and max(sizes) > 1
    for name, prediction in zip("abcd", expected, strict=True):
        mask = cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert np.mean((mask == 5) == (prediction.labels == 0)) > 0.99  # 5: the value of the background


def test_outputs_of_other_weights_or_settings_are_not_mixed(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "a.png", "b.png")
    out = tmp_path / "out"
    predict_folder(Predictor(binary, "cpu"), tmp_path / "in", out, confidence=True)
    for options, said in (
        ({"network": "student"}, "was written with other weights"),
        ({"blending": "smooth"}, "was written with blending=average, now smooth"),
        ({"flips": True}, "was written with flips=False, now True"),
        ({"thresholds": "argmax"}, r"was written with thresholds=\[0\.6\], now None"),
        ({"precision": "bf16"}, "was written with precision=fp32, now bfloat16"),
    ):
        with pytest.raises(ValueError, match=rf"out {said}.*: give another output folder, or overwrite .*--overwrite"):
            predict_folder(Predictor(binary, "cpu", **options), tmp_path / "in", out)  # type: ignore[arg-type]


def test_overwriting_that_stops_leaves_nothing_of_the_old(binary: dict[str, Any], tmp_path: Path) -> None:
    """The next run must not take the old weights' masks for its own."""
    write_photos(tmp_path / "in", *(f"{name}.png" for name in "abcdefghij"))
    out, student = tmp_path / "out", Predictor(binary, "cpu", network="student")
    predict_folder(Predictor(binary, "cpu"), tmp_path / "in", out, confidence=True)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_folder(student, tmp_path / "in", out, stop, overwrite=True)
    left = len(list((out / "masks").iterdir()))  # a, and perhaps those that were nearly done
    assert 1 <= left < 10 and not (out / "confidence" / "j.png").exists()
    assert predict_folder(student, tmp_path / "in", out).written == 10 - left
    assert json.loads((out / "predict.json").read_text())["weights_version"] == student.weights_version


def test_masks_that_are_no_predictions_are_safe(binary: dict[str, Any], tmp_path: Path) -> None:
    """A labelled set's own masks."""
    write_photos(tmp_path, "images/a.png", "masks/a.png")
    before = (tmp_path / "masks" / "a.png").read_bytes()
    with pytest.raises(ValueError, match=r"not known to be predictions \(no predict\.json\): give another output folder"):
        predict_folder(Predictor(binary, "cpu"), tmp_path, tmp_path)
    assert (tmp_path / "masks" / "a.png").read_bytes() == before


def test_a_broken_record(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "a.png")
    (tmp_path / "predict.json").write_text("[]")
    with pytest.raises(ValueError, match=r"predict\.json cannot be read .*: give another output folder"):
        predict_folder(Predictor(binary, "cpu"), tmp_path / "in", tmp_path)


# -- what cannot be read ----------------------------------------------------------------------------------------------


def test_photos_that_cannot_be_read_are_listed(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "a.png", "d.png")
    (tmp_path / "in" / "b.jpg").write_bytes(b"no photo")
    (tmp_path / "in" / "c.png").write_bytes((tmp_path / "in" / "a.png").read_bytes()[:200])
    result = predict_folder(Predictor(binary, "cpu"), tmp_path / "in", tmp_path / "out")
    assert result.written == 2
    assert [path.name for path, _ in result.failed] == ["b.jpg", "c.png"]
    assert all(reason for _, reason in result.failed)
    assert files(tmp_path / "out") == ["masks/a.png", "masks/d.png", "overlays/a.jpg", "overlays/d.jpg"]


def test_inputs_that_are_none(binary: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, said in (("absent", "does not exist"), ("empty", "holds no photo")):
        with pytest.raises(ValueError, match=f"{name} {said}"):
            predict_folder(Predictor(binary, "cpu"), tmp_path / name, tmp_path / "out")


def test_photos_that_would_overwrite_each_other(binary: dict[str, Any], tmp_path: Path) -> None:
    write_photos(tmp_path / "in", "b.png", "sub/a.png", "sub/a.jpg")
    with pytest.raises(ValueError, match=r"a\.png and a\.jpg differ only in their suffix"):
        predict_folder(Predictor(binary, "cpu"), tmp_path / "in", tmp_path / "out")


# -- overlays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 64, 400])
def test_a_huge_photo_gets_a_small_overlay_in_which_a_thin_line_remains(tmp_path: Path, rows: int) -> None:
    image, labels = np.full((401, 303, 3), 128, np.uint8), np.zeros((401, 303), np.uint8)
    labels[np.arange(300), np.arange(300)] = 1  # one pixel wide
    labels[350:, 250:] = 255
    writer = OverlayWriter(tmp_path / "o.jpg", image, [(0, 0, 0), (255, 0, 0)], has_background=True, side=100)
    writer.open(401, 303, 2)
    for top in range(0, 401, rows):
        writer.write(top, labels[top : top + rows], np.zeros((1, 1), np.float32), None)
    writer.close()
    picture = cv2.imread(str(tmp_path / "o.jpg"))[..., ::-1].astype(int)
    assert picture.shape == (81, 61, 3)  # a fifth, rounded up
    line = picture[np.arange(60), np.arange(60)]
    assert ((line[:, 0] - line[:, 1]) > 25).all()
    assert np.abs(picture[10:50, 55] - 128).max() < 20


# -- command line -----------------------------------------------------------------------------------------------------


def test_the_command_line_lists_what_it_could_not_read(
    binary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_photos(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no photo")
    best, out = save_checkpoint(tmp_path / "best.pth", binary), tmp_path / "out"
    command = ["predict", str(best), str(tmp_path / "in"), str(out), "--device=cpu"]
    options = ["--confidence", "--probabilities", "--flips", "--blending=smooth", "--tile-batch=2"]
    assert main([*command, *options]) == 1
    said = capsys.readouterr()
    assert f"2 predictions in {out}\n" in said.out
    assert "error: 1 photos could not be read, the others are done; replace or remove them:" in said.err
    assert said.err.count("broken.jpg") == 1
    assert len(files(out)) == 8
    settings = json.loads((out / "predict.json").read_text())["settings"]
    assert (settings["blending"], settings["flips"]) == ("smooth", True)

    (tmp_path / "in" / "broken.jpg").unlink()
    assert main([*command, *options]) == 0
    assert "0 predictions" in (text := capsys.readouterr().out)
    assert "2 were there already" in text
    assert main(command) == 1  # other settings
    assert "was written with blending=smooth, now average" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert files(out) == ["masks/a.png", "masks/b.png", "overlays/a.jpg", "overlays/b.jpg"]


def test_the_command_line_names_options_that_do_not_fit(
    binary: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = save_checkpoint(tmp_path / "best.pth", binary)
    assert main(["predict", str(best), str(tmp_path), str(tmp_path), "--tile-batch=0"]) == 1
    assert "error: tile_batch=0: use at least 1" in capsys.readouterr().err
