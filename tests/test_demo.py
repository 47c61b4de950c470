"""The demo on a user's folders, and the reports of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import CRACKS, cracks, tiny, write_folder

from hrda_core.data.samples import Dataset
from hrda_core.demo import demo
from hrda_core.evaluation.ranking import worst_photos
from hrda_core.training.history import read_history, validation_chart
from hrda_core.training.loop import train
from hrda_core.training.run_report import write_run_report

FAST = (
    "model.encoder=test_efficientnet",
    "model.pretrained=false",
    "model.multi_resolution=false",
    "model.head_channels=16",
    "data.crop_height=64",
    "data.crop_width=64",
    "optimisation.iterations=4",
    "optimisation.batch_size=2",
    "schedule.validate_every=2",
    "schedule.log_every=1",
)


def test_demo_compares_both_arms_on_the_labelled_photos(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", 4, seed=1)
    target = write_folder(tmp_path / "target", 4, seed=2, masks=False)
    validation = write_folder(tmp_path / "validation", 3, seed=3)
    report = demo(tmp_path / "out", str(source), str(target), str(validation), changes=FAST)
    page = report.read_text(encoding="utf-8")
    for text in ("source-only", "adapted", "IoU at best threshold", "3 held-out labelled photos", "confidence", "ground truth"):
        assert text in page, text
    assert page.count("<svg") >= 5  # IoU, losses and learning rate of both arms
    assert "http://" not in page and "https://" not in page
    for run in (tmp_path / "out", tmp_path / "out" / "baseline"):
        assert (run / "checkpoints" / "last.pth").is_file()


def test_demo_replaces_demos_only(tmp_path: Path) -> None:
    source, target = str(write_folder(tmp_path / "source", 4, seed=1)), str(write_folder(tmp_path / "target", 4, seed=2))
    for _ in range(2):
        demo(tmp_path / "out", source, target, changes=FAST)
    mine = train(tiny(), cracks(4, 1), cracks(3, 2), directory=tmp_path / "mine")
    before = mine.best.read_bytes()
    with pytest.raises(ValueError, match="mine holds another run: choose another directory, or overwrite it"):
        demo(tmp_path / "mine", source, target, changes=FAST)
    assert mine.best.read_bytes() == before
    other = str(write_folder(tmp_path / "other", 4, seed=3))
    with pytest.raises(ValueError, match="out holds another run"):
        demo(tmp_path / "out", source, other, changes=FAST)
    demo(tmp_path / "mine", source, target, changes=FAST, overwrite=True)
    demo(tmp_path / "mine", source, target, changes=FAST)  # which is a demo's now
    train(tiny(), cracks(4, 1), cracks(3, 2), directory=tmp_path / "mine", overwrite=True)
    with pytest.raises(ValueError, match="mine holds another run"):
        demo(tmp_path / "mine", source, target, changes=FAST)


def test_demo_without_validation_says_so_and_shows_pictures(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", 4, seed=1)
    target = write_folder(tmp_path / "target", 4, seed=2, masks=False)
    page = demo(tmp_path / "out", str(source), str(target), changes=FAST).read_text(encoding="utf-8")
    assert "no labelled validation set" in page and "ground truth" not in page and "data:image" in page


def test_demo_never_opens_the_targets_masks(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", 4, seed=1)
    target = write_folder(tmp_path / "target", 4, seed=2)
    for mask in (target / "masks").iterdir():
        mask.write_bytes(b"not a picture")
    assert "ground truth" not in demo(tmp_path / "out", str(source), str(target), changes=FAST).read_text(encoding="utf-8")


def test_history_reads_back_what_was_logged(tmp_path: Path) -> None:
    lines = [{"iteration": 2, "loss/source": 0.5, "validation/teacher/mean_iou": 0.25}, {"iteration": 4, "loss/source": 0.25}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    history = read_history(tmp_path)
    assert history["loss/source"] == [(2, 0.5), (4, 0.25)]
    chart = validation_chart({"run": history}, "mean_iou", "mIoU")
    assert chart is not None and chart.series == {"run teacher": [(2, 0.25)]}
    assert validation_chart({"run": history}, "foreground_iou", "IoU") is None


def test_history_of_a_run_that_logged_nothing(tmp_path: Path) -> None:
    assert read_history(tmp_path) == {}


def test_changes_apply_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown field 'optimisation.iteration'"):
        demo(tmp_path / "out", str(write_folder(tmp_path / "s", 2, 1)), str(tmp_path / "s"), changes=["optimisation.iteration=3"])


def test_the_report_of_a_run(tmp_path: Path) -> None:
    source, target, validation = cracks(4, 1), replace(cracks(3, 2), masks=None), cracks(2, 3)
    config = tiny({"baseline": True, "schedule": {"previews": 2}})
    result = train(config, source, target, validation, directory=tmp_path)
    page = write_run_report(result.directory, source, target, validation).read_text(encoding="utf-8")
    sections = (
        "What was trained on what",
        "Validation",
        "Without labels",
        "Previews over time",
        "Worst photos",
        "Photos to annotate next",
    )
    for text in (*sections, "baseline teacher", "iteration 3", "iteration 6", "Target photos", "missed", "Agreement with itself"):
        assert text in page, text
    assert "http://" not in page and "https://" not in page


def test_the_report_of_a_run_without_target_and_validation(tmp_path: Path) -> None:
    source = cracks(4, 1)
    result = train(tiny(mode="source-only"), source, None, directory=tmp_path)
    page = write_run_report(result.directory, source).read_text(encoding="utf-8")
    assert "Losses" in page and "Worst photos" not in page and "Previews over time" not in page


def test_the_worst_photo_comes_first() -> None:
    right, wrong = (mask := cracks(1, 1).mask(0)), 1 - cracks(1, 1).mask(0)
    photos = Dataset((np.full((*mask.shape, 3), 9, np.uint8), np.zeros((*mask.shape, 3), np.uint8)), (mask, mask), CRACKS)
    assert worst_photos(lambda image: right if image[0, 0, 0] else wrong, photos, [0, 1]) == [(1, 0.0), (0, 1.0)]
