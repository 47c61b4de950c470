"""What "auto" means: the rules that suit the classes, as measured on cracks and streets (docs/defaults.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from hrda_core.config_adaptation import AUTO, AdaptationConfig
from hrda_core.config_checks import check

T = TypeVar("T", str, int, float)

SEVERAL_ZOOMS = (0.35, 0.5, 0.7, 1.0, 1.4)
PHOTO_SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)  # larger ones take long to look at
ROUNDS = 2  # of a run that has them: the second one's labels are better by what the first one taught
ROUND_CROPS = 2  # of photos, for each of a labelled image: in rounds they teach more, but not without those
SETTLED = 1000  # iterations of a run whose warm-up is worth labelling whole photos with: measured, 1,200 are and 600 are not
LONGEST_WARMUP = 1500  # as published, of 40,000 iterations
BALANCE = 0.75  # of many classes
LITTLE = 0.1  # share of the labelled pixels
LEAST_SHARE = 0.3  # of the labelled images' share of foreground
EDGE_WIDTH = 8  # pixels of the crop
LOWEST, LOWEST_IN_ROUNDS = 0.3, 0.5  # probability that may become foreground; the latter where the surest sizes are looked at
NEEDS_BACKGROUND = "needs a class named 'background' at index 0; choose another"


@dataclass(frozen=True)
class Facts:
    """What the rules depend on, of a run and of its labelled images. fitted: images are resized to one size anyway."""

    mode: str
    iterations: int
    fitted: bool
    num_classes: int
    has_background: bool
    foreground_share: float

    @property
    def adapting(self) -> bool:
        return self.mode in ("adapt", "semi-supervised")

    @property
    def one_class(self) -> bool:
        """Beside background."""
        return self.has_background and self.num_classes == 2

    @property
    def thin(self) -> bool:
        """One class beside background, or all together a small part of it."""
        return self.one_class or (self.has_background and self.foreground_share < LITTLE)


def settled_adaptation(given: AdaptationConfig, facts: Facts) -> AdaptationConfig:
    """Thin structures get band pseudo-labels of whole photos that hold at most the source's share of foreground, a warm-up on
    source and no class mixing. Everything else gets the published rules, with masked consistency, rare classes raised, and
    labelled images in the colours of photos.

    Raises:
        ValueError: rules that contradict each other, or need a background class, where there is none.
    """
    settled = _with_rounds(_with_labels(given, facts), facts)
    _check(given, settled, facts)
    return settled


def settled_zooms(given: tuple[float, ...], facts: Facts) -> tuple[float, ...]:
    """One class beside background is predicted at the sizes that suit each photo, unless the labels are the target's own."""
    zooms = given or (SEVERAL_ZOOMS if facts.one_class and facts.mode != "supervised" else (1.0,))
    fix = "several need a class named 'background' at index 0"
    check(facts.has_background or len(zooms) == 1, "inference.zooms", zooms, fix)
    return zooms


def settled_class_prior(given: str, facts: Facts) -> str:
    return _or(given, "auto", "labelled" if facts.one_class else "equal")


def settled_warmup(given: int, facts: Facts) -> int:
    """Of the learning rate: in a short run a long one would leave it low throughout."""
    return _or(given, AUTO, min(LONGEST_WARMUP, facts.iterations // 10))


def settled_dice_weight(given: float, facts: Facts) -> float:
    return _or(given, AUTO, float(facts.thin))


def _with_labels(given: AdaptationConfig, facts: Facts) -> AdaptationConfig:
    thin = facts.thin
    rule = _or(given.pseudo_labels, "auto", "prior-band" if thin else "confident-fraction")
    share = given.foreground_share
    estimating = facts.one_class and facts.mode == "adapt" and rule == "prior-band" and share == AUTO
    return replace(
        given,
        source_warmup=_or(given.source_warmup, AUTO, facts.iterations // 2 if thin else 0),
        colour_transfer=_or(given.colour_transfer, AUTO, float(not thin)),
        pseudo_labels=rule,
        foreground_share=_or(share, AUTO, facts.foreground_share) if rule == "prior-band" else share,
        least_share=_or(given.least_share, AUTO, LEAST_SHARE if estimating else 1.0),
        class_balance=_or(given.class_balance, AUTO, BALANCE if rule == "confident-fraction" else 0.0),
        mixing=_or(given.mixing, "auto", "none" if thin else "class-mix"),
        mask_weight=_or(given.mask_weight, AUTO, float(not thin)),
    )


def _with_rounds(given: AdaptationConfig, facts: Facts) -> AdaptationConfig:
    # in windows of whole photos, norms have no batch of their own to take statistics of
    suited = facts.thin and given.pseudo_labels != "confident-fraction" and given.teacher_norm == "running"
    rounds = _or(given.rounds, AUTO, ROUNDS if suited and facts.iterations >= SETTLED else 0) if facts.adapting else 0
    one_class = rounds > 0 and facts.one_class
    searching = one_class and facts.foreground_share < LITTLE and not facts.fitted and facts.mode == "adapt"
    return replace(
        given,
        rounds=rounds,
        photo_scales=given.photo_scales or (PHOTO_SCALES if searching else (1.0,)),
        teacher_zooms=given.teacher_zooms or (SEVERAL_ZOOMS if one_class else (1.0,)),
        dice_weight=_or(given.dice_weight, AUTO, float(facts.thin and rounds > 0)),
        round_crops=_or(given.round_crops, AUTO, ROUND_CROPS if one_class and given.mixing == "none" else 1),
        foreground_at_least=_or(given.foreground_at_least, AUTO, LOWEST_IN_ROUNDS if one_class else LOWEST),
        edge_width=_or(given.edge_width, AUTO, EDGE_WIDTH if one_class else 0),
    )


def _check(given: AdaptationConfig, settled: AdaptationConfig, facts: Facts) -> None:
    banded = settled.pseudo_labels != "confident-fraction"
    fix = "belongs to adaptation.pseudo_labels=confident-fraction; the bands have adaptation.foreground_share instead"
    check(settled.class_balance == 0 or not banded, "adaptation.class_balance", settled.class_balance, fix)
    fix = "the teacher's norms do not know the photos; use adaptation.teacher_norm=running, or no rounds"
    check(settled.rounds == 0 or settled.teacher_norm == "running", "adaptation.rounds", settled.rounds, fix)
    if facts.adapting and set(given.photo_scales) - {1.0}:
        fix = "is chosen as the first round begins; use adaptation.rounds=1, or data.target_scale for one you know"
        check(settled.rounds > 0, "adaptation.photo_scales", given.photo_scales, fix)
        fix = "photos are resized to one size anyway; use [1.0], or data.fit_short=0"
        check(not facts.fitted, "adaptation.photo_scales", given.photo_scales, fix)
    if facts.adapting and settled.round_crops > 1:
        fix = "is of rounds, and this run has none; use 1, or adaptation.rounds=1"
        check(settled.rounds > 0, "adaptation.round_crops", settled.round_crops, fix)
        fix = f"a labelled image is mixed into one crop (adaptation.mixing={settled.mixing}): use 1, or adaptation.mixing=none"
        check(settled.mixing == "none", "adaptation.round_crops", settled.round_crops, fix)
    if facts.adapting:
        fix = f"must be less than optimisation.iterations={facts.iterations}, or the run never adapts"
        check(settled.source_warmup < facts.iterations, "adaptation.source_warmup", settled.source_warmup, fix)
    if not facts.has_background:
        check(not banded, "adaptation.pseudo_labels", settled.pseudo_labels, NEEDS_BACKGROUND)
        for name, plain in (("teacher_zooms", (1.0,)), ("photo_scales", (1.0,)), ("most_foreground", 1.0)):
            value = getattr(settled, name)
            check(value == plain, f"adaptation.{name}", value, NEEDS_BACKGROUND)
        check(settled.mixing != "foreground", "adaptation.mixing", settled.mixing, NEEDS_BACKGROUND)


def _or(given: T, auto: T, settled: T) -> T:
    """`given`, but where that says "auto"."""
    return settled if given == auto else given
