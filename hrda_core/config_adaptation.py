"""The part of the configuration that says how a network adapts to photos without labels."""

from __future__ import annotations

from dataclasses import dataclass

from hrda_core.config_checks import check, one_of, share

AUTO = -1


@dataclass(frozen=True)
class AdaptationConfig:
    source_warmup: int = AUTO  # iterations on source alone before self-training; -1 = auto (thin: half, else 0)
    # share of the labelled crops that get the colours of a photo once the run adapts; -1 = auto (thin: 0, else 1)
    colour_transfer: float = -1.0
    teacher_alpha: float = 0.999  # EMA: min(1 - 1 / (iteration + 1), alpha)
    teacher_norm: str = "running"  # the teacher's batch norms: "batch" statistics as published, or averaged "running" ones
    # times, after the warm-up, that the teacher labels whole photos; 0 = a crop in every iteration, as published; -1 = auto:
    # twice for thin classes where the run is long enough
    rounds: int = AUTO
    round_photos: int = 1000  # at most so many a round labels and learns from, drawn at random; 0 = all
    # crops of photos, in rounds, for each crop of a labelled image; they pass one after another, so that more of them take time
    # and no memory; -1 = auto (rounds on one class: 2, else 1)
    round_crops: int = AUTO
    # factors on data.target_scale, of which the first round takes that at which the teacher is surest of what it finds in the
    # photos; (1.0,) = none; empty = auto
    photo_scales: tuple[float, ...] = ()
    teacher_zooms: tuple[float, ...] = ()  # sizes at which the teacher sees a photo; the surest count; empty = auto
    pseudo_labels: str = "auto"  # "confident-fraction" (DACS), "prior-band" or "band" (uncertain pixels ignored), or "auto"
    pseudo_threshold: float = 0.7  # confident-fraction: pixels above it count as confident (published: 0.968)
    # confident-fraction: how much more of rare classes becomes a label: probabilities are divided by the class's share of the
    # photos to this power; 0 = argmax, as published; -1 = auto
    class_balance: float = -1.0
    band_foreground: float = 0.5  # band: foreground probability above which a pixel becomes foreground
    band_background: float = 0.1  # band: below which it becomes background; between the two it is ignored
    # prior-band: share of the photos, as seen, that becomes foreground; -1 = as in the labelled images, or in those photos that
    # have labels, where it is more
    foreground_share: float = -1.0
    # prior-band, in rounds: how far an estimate of what photos hold may lower foreground_share, as a part of it; 1 = not at all;
    # -1 = auto (one class whose foreground_share is auto: 0.3, else 1)
    least_share: float = -1.0
    # prior-band: probability of what may become foreground, whatever the share; -1 = auto (rounds on one class: 0.5, else 0.3)
    foreground_at_least: float = -1.0
    # bands: uncertain pixels of the crop so near to foreground are its edge: background, not ignored; -1 = auto (rounds on one
    # class: 8, else 0)
    edge_width: int = AUTO
    # prior-band: predictions are held to foreground_share too, by the classifiers' bias: after the warm-up and each round, or
    # without rounds at the end
    hold_to_share: bool = True
    most_foreground: float = 1.0  # photos of which the teacher finds a larger share are ignored
    dice_weight: float = -1.0  # of a soft Dice term on pseudo-labels; -1 = auto (1 in rounds on thin classes, else 0)
    ignored_share: float = 0.04  # prior-band: share that is ignored, the most uncertain next to it
    pseudo_ignore_top: int = 0  # rows of the crop whose pseudo-labels get weight 0
    pseudo_ignore_bottom: int = 0
    margin_top: float = 0.0  # share of the photo's height without pseudo-labels (Cityscapes: the car's hood)
    margin_bottom: float = 0.0
    margin_left: float = 0.0
    margin_right: float = 0.0
    mixing: str = "auto"  # "class-mix" (DACS), "foreground" (paste foreground with a margin), "none", or "auto"
    foreground_paste_share: float = 0.5  # mixing "foreground": share of the samples that get a paste
    foreground_paste_margin: int = 5  # and pixels of source kept around it
    jitter_probability: float = 0.8  # colour jitter of the mixed image, decided once per iteration
    jitter_strength: float = 0.2  # brightness, contrast, saturation, hue
    blur_probability: float = 0.5  # Gaussian blur of the mixed image
    blur_sigma_min: float = 0.15
    blur_sigma_max: float = 1.15
    feature_distance_weight: float = 0.005  # pull towards the ImageNet features; needs pretrained weights; 0 = off
    feature_distance_min_ratio: float = 0.75  # share of a feature cell that one class must cover
    feature_distance_classes: tuple[str, ...] = ()  # by name; empty = every class but background
    mask_weight: float = -1.0  # masked image consistency (MIC); 0 = off; -1 = auto (thin: 0, else 1)
    mask_block: int = 64  # side of the masked blocks in pixels
    mask_ratio: float = 0.7  # share of the blocks that is hidden

    @property
    def expected_share(self) -> float | None:
        """Of foreground in the photos, once "auto" is settled; None for pseudo-labels that expect none."""
        return self.foreground_share if self.pseudo_labels == "prior-band" else None

    def __post_init__(self) -> None:
        check(
            self.source_warmup >= AUTO,
            "adaptation.source_warmup",
            self.source_warmup,
            "use iterations, or -1 for auto",
        )
        one_of("adaptation.teacher_norm", self.teacher_norm, ("batch", "running"))
        check(self.rounds >= AUTO, "adaptation.rounds", self.rounds, "use a number of rounds, 0 for none, or -1 for auto")
        fix = "use 1 or more, or -1 for auto"
        check(self.round_crops >= 1 or self.round_crops == AUTO, "adaptation.round_crops", self.round_crops, fix)
        fix = "use 0 or more, or -1 for auto"
        for name in ("dice_weight", "class_balance", "mask_weight"):
            value = getattr(self, name)
            check(value >= 0 or value == AUTO, f"adaptation.{name}", value, fix)
        check(self.edge_width >= AUTO, "adaptation.edge_width", self.edge_width, "use pixels, 0 for none, or -1 for auto")
        for name in ("teacher_zooms", "photo_scales"):
            factors = getattr(self, name)
            check(all(0.1 <= factor <= 10 for factor in factors), f"adaptation.{name}", factors, "use factors from 0.1 to 10")
        one_of("adaptation.pseudo_labels", self.pseudo_labels, ("auto", "confident-fraction", "band", "prior-band"))
        for name in ("colour_transfer", "foreground_share", "foreground_at_least", "least_share"):
            value = getattr(self, name)
            fix = "use a share from 0 to 1, or -1 for auto"
            check(0 <= value <= 1 or value == AUTO, f"adaptation.{name}", value, fix)
        one_of("adaptation.mixing", self.mixing, ("auto", "class-mix", "foreground", "none"))
        for name in (
            *("teacher_alpha", "pseudo_threshold", "band_foreground", "band_background", "foreground_paste_share"),
            *("jitter_probability", "blur_probability", "feature_distance_min_ratio", "mask_ratio"),
            *("ignored_share", "most_foreground"),
        ):
            share(f"adaptation.{name}", getattr(self, name))
        check(0 <= self.jitter_strength <= 0.5, "adaptation.jitter_strength", self.jitter_strength, "use 0 to 0.5")
        check(
            self.band_background <= self.band_foreground,
            "adaptation.band_background",
            self.band_background,
            "must not exceed band_foreground",
        )
        check(
            0 < self.blur_sigma_min <= self.blur_sigma_max,
            "adaptation.blur_sigma_min",
            self.blur_sigma_min,
            "use 0 < min <= max",
        )
        for side in ("top", "bottom", "left", "right"):
            value = getattr(self, f"margin_{side}")
            check(0 <= value < 0.5, f"adaptation.margin_{side}", value, "use a share from 0 up to 0.5")
        for name in (
            "pseudo_ignore_top",
            "pseudo_ignore_bottom",
            "foreground_paste_margin",
            "feature_distance_weight",
            "round_photos",
        ):
            check(getattr(self, name) >= 0, f"adaptation.{name}", getattr(self, name), "must not be negative")
        check(self.mask_block >= 1, "adaptation.mask_block", self.mask_block, "use at least 1 pixel")
