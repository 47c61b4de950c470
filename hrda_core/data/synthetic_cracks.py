"""Labelled synthetic crack pictures: surface, distractors, crack, light, camera; a function of (settings, index)."""

import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hrda_core.data.capture_effects import cast_shadow, grade, illuminate, photograph
from hrda_core.data.crack_distractors import disturb, occlude
from hrda_core.data.crack_geometry import KIND_ODDS, KINDS, CrackField, grow_crack, rasterise, strand_area
from hrda_core.data.crack_shading import shade_crack
from hrda_core.data.pixel_operations import Array, as_float, blur, luminance, relief, shaded
from hrda_core.data.procedural_noise import fractal_noise
from hrda_core.data.procedural_textures import SURFACES
from hrda_core.whole_file import write_whole

# cyan: overlays must stand out from asphalt, plaster and rust
CLASSES = [
    {"name": "background", "color": [0, 0, 0], "value": 0},
    {"name": "crack", "color": [0, 212, 255], "value": 255},
]
TEXTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Look:
    """How one domain appears; `surfaces` counts only without a folder of textures."""

    surfaces: tuple[str, ...]
    exposure: tuple[float, float]  # range of the mean brightness, 0..1
    saturation: tuple[float, float]
    tint: tuple[float, float, float]
    noise: tuple[float, float]  # standard deviation of sensor noise at full brightness
    lamp: float = 0.0  # chance that a lamp instead of daylight lights the surface
    contrast: tuple[float, float] = (0.35, 0.97)  # how much darker than the surface the crack is


LOOKS = {
    "asphalt": Look(("asphalt", "asphalt", "asphalt", "stone"), (0.32, 0.6), (0.3, 1.0), (1.0, 1.0, 1.0), (0.0, 0.03)),
    "concrete": Look(("concrete", "concrete", "stone"), (0.25, 0.7), (0.4, 1.2), (1.0, 1.0, 0.99), (0.0, 0.03)),
    "plaster": Look(("plaster",), (0.55, 0.85), (0.8, 1.5), (1.06, 1.0, 0.88), (0.0, 0.02), contrast=(0.25, 0.9)),
    "masonry": Look(("brick",), (0.3, 0.65), (0.7, 1.5), (1.03, 1.0, 0.96), (0.0, 0.03), contrast=(0.5, 0.99)),
    "rusty": Look(("rust", "rust", "wood"), (0.22, 0.5), (0.9, 1.6), (1.25, 0.95, 0.7), (0.0, 0.04)),
    "night": Look(("asphalt", "concrete", "brick"), (0.12, 0.3), (0.3, 0.9), (0.75, 0.95, 1.35), (0.03, 0.1), lamp=0.9),
}
MIXTURE = {"asphalt": 0.32, "concrete": 0.28, "plaster": 0.18, "masonry": 0.14, "rusty": 0.05, "night": 0.03}


@dataclass(frozen=True)
class CrackSynthesis:
    """Settings of a synthetic crack data set. Raises ValueError when a field is out of range."""

    count: int = 200  # Number of pictures in the data set.
    size: int = 512  # Height and width of a picture in pixels.
    seed: int = 0  # Picture i depends on (seed, i) alone, so data sets with different seeds share no picture.
    textures: str = ""  # Folder of crack-free photos, searched recursively; empty = procedural surfaces.
    look: str = "any"  # Domain appearance: any, asphalt, concrete, plaster, masonry, rusty or night; "any" mixes them.
    label_width: float = 1.0  # Width of the label relative to the visible crack; annotators often draw 1.5 to 2.
    label_margin: float = 0.5  # Pixels (at size 512) added to the label on either side, as borders are soft.
    crack_free: float = 0.03  # Share of pictures without a crack.
    distractors: float = 1.0  # Strength of joints, stains, wires and other things that are not cracks; 0 = none.

    def __post_init__(self) -> None:
        looks = ("any", *LOOKS)
        for name, low, high in (
            ("count", 1, 10_000_000),
            ("size", 64, 4096),
            ("seed", 0, 2**63 - 1),
            ("label_width", 0.1, 10.0),
            ("label_margin", 0.0, 20.0),
            ("crack_free", 0.0, 1.0),
            ("distractors", 0.0, 5.0),
        ):
            value = getattr(self, name)
            kind, noun = (int, "a whole number") if isinstance(low, int) else ((int, float), "a number")
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"{name} is {value!r}; set it to {noun}.")
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; set it between {low} and {high}.")
        if self.look not in looks:
            raise ValueError(f"look is {self.look!r}; choose one of {', '.join(looks)}.")
        if self.textures and not Path(self.textures).is_dir():
            raise ValueError(f"textures is {self.textures!r}, which is no folder; name a folder or leave it empty.")


def synthesize_sample(settings: CrackSynthesis, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Picture `index` of the set: image (size, size, 3) RGB uint8, mask (size, size) uint8 (0 background, 1 crack)."""
    rng = np.random.default_rng([settings.seed, index])
    size = settings.size
    free_look = settings.look == "any"
    look = LOOKS[str(rng.choice(list(MIXTURE), p=list(MIXTURE.values()))) if free_look else settings.look]
    light = float(rng.uniform(0, 2 * np.pi))
    if settings.textures:
        image = _photo_surface(rng, settings.textures, size, light)
        if free_look:  # photos have their own colours: the look decides on light and camera only
            look = dataclasses.replace(look, tint=(1.0, 1.0, 1.0), exposure=(0.2, 0.75), saturation=(0.4, 1.3))
    else:
        image = SURFACES[str(rng.choice(look.surfaces))](rng, size)
    image = disturb(rng, image, settings.distractors)
    mask = np.zeros((size, size), np.uint8)
    if rng.random() >= settings.crack_free:
        field = _crack_field(rng, settings, image)
        image = shade_crack(rng, image, field, light, look.contrast)
        mask = _label(settings, field)
    image, cover = occlude(rng, image, settings.distractors)
    mask[cover > 0.5] = 0
    image = illuminate(rng, image, bool(rng.random() < look.lamp))
    if rng.random() < 0.15:
        image = cast_shadow(rng, image)
    image = grade(rng, image, look.exposure, look.saturation, look.tint, 1.0 if free_look else 0.5)
    return photograph(rng, image, look.noise), mask


def _crack_field(rng: np.random.Generator, settings: CrackSynthesis, image: Array) -> CrackField:
    """Draws the share of crack pixels first and solves for the width, so that any mix of kinds keeps the statistics."""
    size, unit = settings.size, settings.size / 512
    kind = str(rng.choice(KINDS, p=KIND_ODDS))
    for _ in range(8):
        strands = grow_crack(rng, size, kind)
        length = strand_area(strands, size)
        if length > 0.35 * size:
            break
    draw = rng.standard_normal()
    share = float(np.clip(0.0205 * np.exp(draw * (0.62 if draw > 0 else 0.88)), 0.002, 0.11))
    widest = {"ribbon": 44.0, "steps": 26.0, "web": 6.0}.get(kind, 20.0)
    width = float(np.clip(share * size * size / max(length, 1.0) - unit, 0.9 * unit, widest * unit))
    grey = luminance(image)
    grain = blur(grey, 0.08 * width) - blur(grey, 6 * unit + width)
    teeth = max(rng.uniform(6, 24) * unit, width * rng.uniform(0.5, 1.5))  # length of a tooth of the border
    jagged = rng.uniform(0.03, 0.3) * fractal_noise(rng, size, size / teeth, 3, 0.6)
    # a crack runs around stones: bright grains narrow it, dark gaps widen it
    jagged -= rng.uniform(0.0, 0.3) * np.clip(grain / (float(grain.std()) + 1e-3), -2, 2)
    return rasterise(strands, size, width, as_float(np.clip(jagged, -0.8, 1.5)))


def _label(settings: CrackSynthesis, field: CrackField) -> npt.NDArray[np.uint8]:
    """Pixels nearer to the centre line than the widened half width, where the crack is wide enough to be seen."""
    unit = settings.size / 512
    reach = settings.label_width * np.maximum(field.half_width, 0.5 * unit) + settings.label_margin * unit
    visible = field.half_width > 0.2 * unit
    return ((field.distance < reach) & visible).astype(np.uint8)


@cache
def _texture_files(folder: str) -> tuple[Path, ...]:
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in TEXTURE_SUFFIXES)
    if not files:
        raise ValueError(f"textures is {folder!r}, which holds no jpg, png, webp or tif; add photos or leave it empty.")
    return tuple(files)


def _photo_surface(rng: np.random.Generator, folder: str, size: int, light: float) -> Array:
    """A turned, zoomed crop of a random photo, with more relief and contrast where the photo is flat."""
    files = _texture_files(folder)
    path = files[int(rng.integers(len(files)))]
    photo = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if photo is None:
        raise ValueError(f"textures holds {path}, which cannot be read as a picture; remove or repair it.")
    height, width = photo.shape[:2]
    side = min(height, width, max(32, int(min(size / rng.uniform(0.5, 2.2), min(height, width)))))
    y, x = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    crop = np.rot90(photo[y : y + side, x : x + side, ::-1], int(rng.integers(4)))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    interpolation = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
    image = cv2.resize(np.ascontiguousarray(crop), (size, size), interpolation=interpolation)
    image = as_float(image) / np.float32(255)
    grey = luminance(image)
    spread = float((grey / (blur(grey, 20 * size / 512) + 0.02)).std())
    boost = max(1.0, rng.uniform(0.03, 0.16) / max(spread, 0.01))
    mean = image.mean(axis=(0, 1))
    image = np.clip(mean + (image - mean) * np.float32(min(boost, 5.0)), 0.01, 1.2)
    bumps = grey / max(float(grey.std()), 0.01)
    return shaded(image, 1 + rng.uniform(0.0, 0.08) * relief(bumps, light))


def synthesize(
    directory: str | Path,
    settings: CrackSynthesis,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes images/crack_000123.jpg, masks/crack_000123.png (0 and 255) and classes.json under `directory`.

    Runs in `workers` processes (None = one for each CPU core, 1 = this process) started by spawning, so a script that
    calls this needs the `if __name__ == "__main__"` guard. Pictures that an interrupted call has written are kept and
    the rest is added; `progress(done, total)` is called as pictures are finished. Raises ValueError when the directory
    holds a set made with other settings.
    """
    root = Path(directory)
    if settings.textures:
        _texture_files.cache_clear()  # photos may have come or gone since the last call
        _texture_files(settings.textures)  # an empty folder is an error here, not in a worker
    _claim(root, settings)
    missing = [i for i in range(settings.count) if not all(p.exists() for p in _files(root, i))]
    done = settings.count - len(missing)
    if progress is not None:
        progress(done, settings.count)
    batches = [missing[i : i + 8] for i in range(0, len(missing), 8)]
    workers = min(workers or os.cpu_count() or 1, len(batches))
    if workers <= 1:
        for index in missing:
            done += _write(root, settings, [index])
            if progress is not None:
                progress(done, settings.count)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _single_thread) as pool:
        try:
            for finished in as_completed([pool.submit(_write, root, settings, batch) for batch in batches]):
                done += finished.result()
                if progress is not None:
                    progress(done, settings.count)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else Ctrl-C would wait for the whole set
            raise


def _single_thread() -> None:
    cv2.setNumThreads(1)


def _files(root: Path, index: int) -> tuple[Path, Path]:
    return root / "images" / f"crack_{index:06d}.jpg", root / "masks" / f"crack_{index:06d}.png"


def _write(root: Path, settings: CrackSynthesis, indices: list[int]) -> int:
    for index in indices:
        image, mask = synthesize_sample(settings, index)
        image_file, mask_file = _files(root, index)
        photo = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
        write_whole(image_file, photo.tobytes(), durable=False)
        write_whole(mask_file, cv2.imencode(".png", mask * np.uint8(255))[1].tobytes(), durable=False)
    return len(indices)


def _claim(root: Path, settings: CrackSynthesis) -> None:
    """Creates the folders, or checks that they hold a set of the same settings (count may grow)."""
    record = root / "synthesis.json"
    wanted = dataclasses.asdict(settings)
    if record.exists():
        found = json.loads(record.read_text(encoding="utf-8"))
        for name, value in wanted.items():
            if found.get(name) != value and not (name == "count" and found.get(name, 0) < value):
                raise ValueError(
                    f"{name} is {value!r}, but {root} holds pictures made with {found.get(name)!r}; "
                    "choose another directory or delete this one."
                )
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    write_whole(record, json.dumps(wanted, indent=1).encode())
    write_whole(root / "classes.json", json.dumps(CLASSES, indent=1).encode())
