"""What loading costs: memory for few and for very many images, and crops per second from photos of 12 megapixels.

    python -m benchmarks.loading memory    # 200 and 40,000 images: peak memory of the process and its loading workers
    python -m benchmarks.loading speed     # crops of 512 from 12-megapixel JPEGs, for one core and for two
    python -m benchmarks.loading counting  # class pixels of 12-megapixel masks: threads against processes

Pictures are made in a temporary folder; of the 40,000 all are hard links to a few.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader

from hrda_core.config import AdaptationConfig, TrainConfig
from hrda_core.config_data import AugmentationConfig, DataConfig
from hrda_core.data.checks import check_data
from hrda_core.data.classes import ClassInfo, write_classes
from hrda_core.data.crops import SourceStream, TargetStream
from hrda_core.data.decoding import read_image, read_mask
from hrda_core.data.pixel_index import class_pixels
from hrda_core.data.samples import Dataset, join
from hrda_core.data.sampling import SourceSampler

CLASSES = (ClassInfo("background", (0, 0, 0), 0), ClassInfo("crack", (220, 20, 60), 255))
NEEDED = 4 * (2 + 2)  # images a second: 4 iterations at a batch of 2 source and 2 target images
STREAMED = 2_000  # crops of each stream in the memory measurement


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "speed", "counting", "one-memory"])
    parser.add_argument("--images", type=int, default=200, help="of one-memory: source and target together")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--start", default="fork", choices=["fork", "spawn"], help="how workers come to be, for memory")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "memory":
            print("| images | dataset | checked, counted | streamed: process | largest of the workers |")
            print("| --- | --- | --- | --- | --- |")
            for images in (200, 40_000):  # each in a process of its own, since peaks never sink
                arguments = ["one-memory", "--images", str(images), "--workers", str(options.workers), "--start", options.start]
                subprocess.run([sys.executable, "-m", "benchmarks.loading", *arguments], check=True)
        elif options.what == "one-memory":
            measure_memory(Path(folder), options.images, options.workers, options.start)
        elif options.what == "speed":
            measure_speed(Path(folder))
        else:
            measure_counting(Path(folder))


# -- memory -----------------------------------------------------------------------------------------------------------


def measure_memory(folder: Path, images: int, workers: int, start: str) -> None:
    """Half of the images are a labelled source, half a target; peaks in MiB."""
    for role in ("source", "target"):
        link_tiny(folder / role, images // 2, masks=role == "source")
    source, target = (join([Dataset.from_folder(folder / role)]) for role in ("source", "target"))
    built = peak()
    config = TrainConfig().updated({"data": {"crop_height": 64, "crop_width": 64, "cache": str(folder / "cache")}})
    check_data(source, target, None, config)
    pixels = class_pixels(source, cache=config.data.cache)
    counted = peak()
    sampler = SourceSampler(pixels)
    crops = SourceStream(source, sampler, config.data, 0, STREAMED // 2, 2, 1.0)
    photos = TargetStream(target, config.data, AdaptationConfig(), 0, STREAMED // 2, 2)
    largest = 0.0
    for stream in (crops, photos):
        loader: DataLoader[Any] = DataLoader(
            stream, 2, sampler=range(len(stream)), num_workers=workers, multiprocessing_context=start
        )
        batches = iter(loader)
        for number, _ in enumerate(batches, start=1):
            if number % 100 == 0:
                largest = max([largest, *(private(process.pid) for process in batches._workers)])
    print(f"| {images} | {built:.0f} MiB | {counted:.0f} MiB | {peak():.0f} MiB | {largest:.0f} MiB of its own |", flush=True)


def link_tiny(folder: Path, count: int, masks: bool) -> None:
    """Eight pictures of 96 x 96, and links to them."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks") if masks else ("images",):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        image, mask = (folder / name / f"picture_{i:06d}.png" for name in ("images", "masks"))
        if i < 8:
            cv2.imwrite(str(image), rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
            if masks:
                cv2.imwrite(str(mask), (rng.random((96, 96)) < 0.1).astype(np.uint8) * np.uint8(255))
            continue
        os.link(image.with_name(f"picture_{i % 8:06d}.png"), image)
        if masks:
            os.link(mask.with_name(f"picture_{i % 8:06d}.png"), mask)
    write_classes(folder / "classes.json", CLASSES)


def peak() -> float:
    """MiB that this process held at most."""
    return _kilobytes(Path("/proc/self/status"), "VmHWM:") / 1024


def private(pid: int) -> float:
    """MiB that a process shares with no other: what it has copied of its parent, and its own."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup")
        return (_kilobytes(rollup, "Private_Dirty:") + _kilobytes(rollup, "Private_Clean:")) / 1024
    except OSError:  # it has ended
        return 0.0


def _kilobytes(file: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name))


# -- speed ------------------------------------------------------------------------------------------------------------


def measure_speed(folder: Path, count: int = 6) -> None:
    labelled, photos = large(folder, count)
    pixels = class_pixels(labelled)
    plain = DataConfig(workers=0)
    margins = AdaptationConfig()
    streams: dict[str, Any] = {
        "source": SourceStream(labelled, SourceSampler(pixels), plain, 0, 1000, 1, 1.0),
        "source, hard augmentation": SourceStream(
            labelled, SourceSampler(pixels), plain, 0, 1000, 1, 1.0, None, AugmentationConfig("hard")
        ),
        "source, crops on foreground": SourceStream(
            labelled, SourceSampler(pixels), DataConfig(workers=0, foreground_crops=1.0), 0, 1000, 1, 1.0
        ),
        "target": TargetStream(photos, plain, margins, 0, 1000, 1),
    }
    print("| crops of 512 from 12-megapixel JPEGs | ms of one core | images/s per core | cores for 4 it/s at 2 + 2 |")
    print("| --- | --- | --- | --- |")
    costs = {name: timed(stream.__getitem__) for name, stream in streams.items()}
    image, mask = (Path(str(entry)) for entry in (labelled.images[0], (labelled.masks or [None])[0]))
    costs |= {
        "of that: reading the JPEG": timed(lambda _: read_image(image)),
        "of that: reading the mask": timed(lambda _: read_mask(mask, CLASSES)),
    }
    for name, seconds in costs.items():
        print(f"| {name} | {1000 * seconds:.0f} | {1 / seconds:.1f} | {NEEDED * seconds:.1f} |")
    for workers in (1, 2):
        loader: DataLoader[Any] = DataLoader(streams["source"], 1, sampler=range(60), num_workers=workers)
        batches = iter(loader)
        for _ in range(10):  # until the workers are under way
            next(batches)
        started = time.perf_counter()
        rest = sum(1 for _ in batches)
        print(f"DataLoader, {workers} workers: {rest / (time.perf_counter() - started):.1f} source images/s")


def large(folder: Path, count: int) -> tuple[Dataset, Dataset]:
    """Blurred noise of 4000 x 3000 with a dark line, as JPEG of about 4 MB, and its mask."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for i in range(count):
        image = cv2.GaussianBlur(rng.integers(0, 256, (3000, 4000, 3), dtype=np.uint8), (0, 0), 1.5)
        image = cv2.normalize(image, image.copy(), 0, 255, cv2.NORM_MINMAX)
        mask = np.zeros((3000, 4000), np.uint8)
        ends = rng.integers(0, 3000, 4).tolist()
        cv2.line(mask, (ends[0], ends[1]), (ends[2], ends[3]), 255, 15)
        image[mask > 0] //= 4
        cv2.imwrite(str(folder / "images" / f"{i}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        cv2.imwrite(str(folder / "masks" / f"{i}.png"), mask)
    write_classes(folder / "classes.json", CLASSES)
    labelled = Dataset.from_folder(folder)
    return labelled, Dataset(labelled.images, None, ())


def timed(function: Callable[[int], Any], times: int = 20) -> float:
    """Seconds of one core for a call: unlike the clock on the wall, nobody else's work counts."""
    function(0)
    started = time.process_time()
    for i in range(times):
        function(i)
    return (time.process_time() - started) / times


# -- counting ---------------------------------------------------------------------------------------------------------


def measure_counting(folder: Path) -> None:
    labelled, _ = large(folder, 6)
    many = join([labelled] * 8)
    print("| counting the classes of 48 masks of 12 megapixels | seconds |")
    print("| --- | --- |")
    for workers in (1, 2):
        print(f"| {workers} threads | {_wall(lambda workers=workers: class_pixels(many, workers)):.2f} |")  # type: ignore[misc]
    with ProcessPoolExecutor(2) as pool:
        parts = [labelled] * 8
        list(pool.map(partial(class_pixels, workers=1), parts[:2]))  # now they are started
        print(f"| 2 processes | {_wall(lambda: list(pool.map(partial(class_pixels, workers=1), parts))):.2f} |")
    cache = str(folder / "cache")
    print(f"| 2 threads, remembering | {_wall(lambda: class_pixels(many, 2, cache=cache)):.2f} |")
    print(f"| again | {_wall(lambda: class_pixels(many, 2, cache=cache)):.2f} |")


def _wall(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
