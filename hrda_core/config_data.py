"""The settings of what a run reads and how it crops and augments."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hrda_core.config_checks import check, one_of, share

LARGEST_SCALE = 16  # by which images are resized


@dataclass(frozen=True)
class DataConfig:
    source: tuple[str, ...] = ()  # folders with images/, masks/, classes.json (command line only; apps pass datasets)
    target: tuple[str, ...] = ()  # folders with images/; masks are ignored except in supervised and semi-supervised mode
    validation: tuple[str, ...] = ()  # labelled folders of the target's appearance; may be empty
    crop_height: int = 512  # of the training crop; the detail crop is half of it
    crop_width: int = 512
    source_scale: float = 1.0  # images are resized by this before cropping; 1 = native resolution
    target_scale: float = 1.0
    fit_short: int = 0  # > 0: shrink or enlarge images to fit into fit_short x fit_long instead (the tutorial's way)
    fit_long: int = 0
    scale_jitter: float = 0.0  # source crops are additionally resized by 2 ** uniform(-jitter, jitter)
    flip: float = 0.5  # probability of a horizontal flip, source and target
    flip_vertical: float = 0.0  # and of a vertical flip (photos without an upright direction)
    rotate: float = 0.0  # probability of a turn by 90, 180 or 270 degrees (square crops)
    foreground_crops: float = 0.0  # share of the source crops that are placed on a foreground pixel of their image
    rare_class_sampling: bool = True
    rare_class_temperature: float = 0.01  # P(c) = softmax((1 - frequency) / temperature)
    rare_class_min_pixels: int = 3000  # an image counts for a class above this, at 2048 x 1024 pixels; scaled with area
    rare_class_crop_ratio: float = 2.0  # a crop is drawn again until it holds min_pixels * ratio, at 1024 x 1024 pixels
    rare_class_crops: int = 10  # at most so many times
    workers: int = 4  # loading processes per stream; 0 = in the training process
    check: bool = True  # read every image and mask once before training and report all problems together
    cache: str = ""  # folder that remembers checks and pixel counts by content; empty = the user's cache folder

    def __post_init__(self) -> None:
        for name in ("crop_height", "crop_width"):
            value = getattr(self, name)
            check(value >= 64 and value % 16 == 0, f"data.{name}", value, "use a multiple of 16, at least 64")
        for name in ("source_scale", "target_scale"):
            fix = f"use a factor between 0 and {LARGEST_SCALE}"
            check(0 < getattr(self, name) <= LARGEST_SCALE, f"data.{name}", getattr(self, name), fix)
        for name in ("flip", "flip_vertical", "rotate", "foreground_crops"):
            share(f"data.{name}", getattr(self, name))
        check(0 <= self.scale_jitter <= 2, "data.scale_jitter", self.scale_jitter, "use 0 to 2 octaves")
        check(self.fit_short >= 0, "data.fit_short", self.fit_short, "must not be negative")
        check(
            (self.fit_short > 0) == (self.fit_long > 0),
            "data.fit_short",
            self.fit_short,
            "set fit_short and fit_long both, or none",
        )
        check(self.fit_short <= self.fit_long, "data.fit_short", self.fit_short, "must not exceed fit_long")
        check(
            self.rare_class_temperature > 0,
            "data.rare_class_temperature",
            self.rare_class_temperature,
            "use a number above 0",
        )
        for name in ("rare_class_min_pixels", "rare_class_crop_ratio", "rare_class_crops", "workers"):
            check(getattr(self, name) >= 0, f"data.{name}", getattr(self, name), "must not be negative")
        if self.rotate:
            check(
                self.crop_height == self.crop_width,
                "data.rotate",
                self.rotate,
                "rotation needs crop_height = crop_width",
            )


@dataclass(frozen=True)
class AugmentationConfig:
    """How labelled source crops are changed. A named preset fills the other fields; they are free with preset "own"."""

    preset: str = "none"  # "none" (as published), "light", "medium", "hard", or "own": the numbers below
    probability: float = 1.0  # share of the crops that are changed at all
    colour: float = 0.0  # brightness, contrast, saturation and hue vary by up to this share
    gamma: float = 0.0  # exponent 2 ** uniform(-gamma, gamma): under- and overexposure
    shade: float = 0.0  # strength of a soft shadow or light falling across the crop
    grey: float = 0.0  # probability of losing all colour
    blur: float = 0.0  # probability of a Gaussian blur ...
    blur_sigma: float = 1.5  # ... of at most so many pixels
    noise: float = 0.0  # standard deviation of sensor noise, at most; 1 = full brightness
    jpeg: float = 0.0  # probability of compression ...
    jpeg_quality: int = 30  # ... of at least this quality
    rotate_degrees: float = 0.0  # turn by up to so many degrees; what enters from outside is ignored

    def __post_init__(self) -> None:
        one_of("augmentation.preset", self.preset, (*AUGMENTATIONS, "own"))
        for name in ("probability", "grey", "blur", "jpeg"):
            share(f"augmentation.{name}", getattr(self, name))
        for name, most in (("colour", 0.5), ("gamma", 2.0), ("shade", 1.0), ("noise", 0.5), ("rotate_degrees", 180.0)):
            check(0 <= getattr(self, name) <= most, f"augmentation.{name}", getattr(self, name), f"use 0 to {most}")
        check(0.15 <= self.blur_sigma <= 10, "augmentation.blur_sigma", self.blur_sigma, "use 0.15 to 10 pixels")
        check(1 <= self.jpeg_quality <= 100, "augmentation.jpeg_quality", self.jpeg_quality, "use 1 to 100")
        if self.preset != "own":
            standing = AUGMENTATIONS[self.preset]
            for field in fields(self):
                value = getattr(self, field.name)
                allowed = (field.default, standing.get(field.name, field.default))
                fix = f"preset {self.preset!r} sets this itself; use augmentation.preset=own for numbers of your own"
                check(field.name == "preset" or value in allowed, f"augmentation.{field.name}", value, fix)

    def settled(self) -> AugmentationConfig:
        """With the numbers of the preset filled in."""
        return self if self.preset == "own" else AugmentationConfig(self.preset, **AUGMENTATIONS[self.preset])


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": {"probability": 0.0},
    "light": {"probability": 0.5, "colour": 0.25, "blur": 0.5},
    "medium": {"probability": 0.8, "colour": 0.3, "gamma": 0.5, "shade": 0.3, "blur": 0.4, "noise": 0.03, "rotate_degrees": 10.0},
    "hard": {
        **{"colour": 0.4, "gamma": 0.8, "shade": 0.5, "grey": 0.1, "blur": 0.5, "blur_sigma": 2.5, "noise": 0.06},
        **{"jpeg": 0.4, "rotate_degrees": 30.0},
    },
}
