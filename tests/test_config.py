"""One frozen object describes a run: it checks itself, round-trips to YAML and settles every "auto"."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from hrda_core.config import MODES, TrainConfig
from hrda_core.config_auto import SEVERAL_ZOOMS
from hrda_core.config_yaml import dump_yaml
from hrda_core.presets import PRESETS

SECTIONS = ("model", "data", "augmentation", "adaptation", "optimisation", "inference", "schedule")
FIELDS = [f"{section}.{field.name}" for section in SECTIONS for field in dataclasses.fields(getattr(TrainConfig(), section))]


def changes(name: str, value: Any) -> dict[str, Any]:
    """`changes("a.b", 1)` is {"a": {"b": 1}}."""
    for part in reversed(name.split(".")):
        value = {part: value}
    return dict(value)


def message_of(content: dict[str, Any]) -> str:
    with pytest.raises(ValueError) as caught:
        TrainConfig().updated(content)
    return str(caught.value)


# -- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_survives_yaml(name: str, tmp_path: Path) -> None:
    config = PRESETS[name]
    assert TrainConfig.from_yaml(config.to_yaml()) == config
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert TrainConfig.load(tmp_path / "config.yaml") == config


def test_an_empty_file_is_the_default() -> None:
    assert TrainConfig.from_yaml("") == TrainConfig() == PRESETS["standard"]


def test_missing_fields_take_their_defaults() -> None:
    config = TrainConfig.from_yaml("optimisation:\n  iterations: 7\n")
    assert config == TrainConfig().updated({"optimisation": {"iterations": 7}})
    assert config.optimisation.batch_size == TrainConfig().optimisation.batch_size


@pytest.mark.parametrize(("text", "value"), [("6e-5", 6e-5), ("1E-4", 1e-4), ("0.5", 0.5), ("1", 1.0), ("'0.25'", 0.25)])
def test_numbers_as_people_write_them(text: str, value: float) -> None:
    rate = TrainConfig.from_yaml(f"optimisation: {{learning_rate: {text}}}").optimisation.learning_rate
    assert rate == value
    assert isinstance(rate, float)


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "nan", "inf"])
def test_numbers_are_finite(text: str) -> None:
    with pytest.raises(ValueError, match=r"optimisation\.weight_decay=.*finite"):
        TrainConfig.from_yaml(f"optimisation: {{weight_decay: {text}}}")


def test_texts_outside_ascii_survive() -> None:
    config = TrainConfig().updated({"data": {"source": ["Größe/裂缝"]}})
    assert TrainConfig.from_yaml(config.to_yaml()).data.source == ("Größe/裂缝",)


@pytest.mark.parametrize("text", ["model: [", "a: b: c", "\t- x"])
def test_broken_yaml_is_said_so(text: str) -> None:
    with pytest.raises(ValueError, match="not valid YAML"):
        TrainConfig.from_yaml(text)


@pytest.mark.parametrize("text", ["5", "- model", "just text"])
def test_yaml_must_be_a_mapping(text: str) -> None:
    with pytest.raises(ValueError, match=r"configuration=.*must be a mapping"):
        TrainConfig.from_yaml(text)


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", [5, None, "x", [1]])
def test_a_section_must_be_a_mapping(section: str, value: Any) -> None:
    assert message_of({section: value}) == f"{section}={value!r}: must be a mapping of fields"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00mode")
    for path in (tmp_path / "absent.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(ValueError, match=f"configuration file .*{path.name}.* cannot be read"):
            TrainConfig.load(path)


def test_as_dict_holds_plain_types_only() -> None:
    def check(value: Any) -> None:
        assert type(value) in (dict, list, str, int, float, bool)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
            check(inner)

    check(TrainConfig().as_dict())
    assert TrainConfig.from_yaml(dump_yaml(TrainConfig().as_dict())) == TrainConfig()


# -- wrong fields, types and values -----------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_an_unknown_field_lists_those_that_exist(section: str) -> None:
    message = message_of({section: {"lerning_rate": 1}})
    assert f"'{section}.lerning_rate'" in message
    assert all(field.name in message for field in dataclasses.fields(getattr(TrainConfig(), section)))


def test_an_unknown_section_lists_those_that_exist() -> None:
    message = message_of({"optimizer": {}})
    assert "'optimizer'" in message
    assert "optimisation" in message


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_refuses_the_wrong_type(name: str) -> None:
    section, field = name.split(".")
    current = getattr(getattr(TrainConfig(), section), field)
    wrong: list[Any] = {
        bool: [0, 1, "yes", None],
        int: [1.5, "many", True, None, [1]],
        float: ["high", True, None, [0.1]],
        str: [5, True, None, ["x"]],
        tuple: ["one", [None], 5, None, {"a": 1}],
    }[type(current)]
    for value in wrong:
        message = message_of(changes(name, value))
        assert message.startswith(f"{name}={value!r}: must be"), message


@pytest.mark.parametrize("name", ["mode", "device", "precision", "seed"])
def test_top_fields_refuse_the_wrong_type(name: str) -> None:
    assert message_of({name: True}).startswith(f"{name}=True: must be of type")


OUT_OF_RANGE = [
    ("mode", "train"),
    ("seed", -1),
    ("seed", 2**31),
    ("precision", "fp16"),
    ("model.head_channels", 7),
    ("model.dropout", 1.1),
    ("model.dropout", -0.1),
    ("model.drop_path_rate", 2.0),
    ("model.attention", "classes"),
    ("model.detail_crop", "quarter"),
    ("model.class_prior", "source"),
    ("model.detail_overlap", 1.0),
    ("model.detail_overlap", -0.5),
    ("inference.detail_overlap", 1.0),
    ("adaptation.teacher_zooms", (20.0,)),
    ("adaptation.photo_scales", (0.05,)),
    ("adaptation.rounds", -2),
    ("adaptation.round_photos", -1),
    ("adaptation.dice_weight", -0.5),
    ("adaptation.round_crops", 0),
    ("inference.zooms", (0.0,)),
    ("adaptation.most_foreground", 1.5),
    ("adaptation.foreground_at_least", -0.1),
    ("adaptation.least_share", -0.1),
    ("model.detail_loss_weight", 1.5),
    ("model.context_loss_weight", -0.1),
    ("data.crop_height", 32),
    ("data.crop_height", 520),
    ("data.crop_width", 0),
    ("data.crop_width", 100),
    ("data.source_scale", 0.0),
    ("data.source_scale", 17.0),
    ("data.target_scale", -1.0),
    ("data.fit_short", -1),
    ("data.scale_jitter", 2.5),
    ("data.scale_jitter", -0.1),
    ("data.flip", 1.5),
    ("data.flip_vertical", -0.5),
    ("data.rotate", 2.0),
    ("data.foreground_crops", 1.01),
    ("data.rare_class_temperature", 0.0),
    ("data.rare_class_min_pixels", -1),
    ("data.rare_class_crop_ratio", -2.0),
    ("data.rare_class_crops", -1),
    ("data.workers", -1),
    ("augmentation.preset", "strong"),
    ("augmentation.probability", 1.5),
    ("augmentation.colour", 0.6),
    ("augmentation.gamma", -1.0),
    ("augmentation.shade", 1.5),
    ("augmentation.grey", 2.0),
    ("augmentation.blur", -0.5),
    ("augmentation.blur_sigma", 0.0),
    ("augmentation.noise", 0.6),
    ("augmentation.jpeg", 1.1),
    ("augmentation.jpeg_quality", 0),
    ("augmentation.rotate_degrees", 181.0),
    ("adaptation.source_warmup", -2),
    ("adaptation.teacher_alpha", 1.5),
    ("adaptation.teacher_norm", "layer"),
    ("adaptation.pseudo_labels", "hard"),
    ("adaptation.pseudo_threshold", 2.0),
    ("adaptation.band_foreground", 1.5),
    ("adaptation.band_background", 0.6),
    ("adaptation.foreground_share", -0.5),
    ("adaptation.ignored_share", 1.5),
    ("adaptation.pseudo_ignore_top", -1),
    ("adaptation.pseudo_ignore_bottom", -5),
    ("adaptation.margin_top", 0.5),
    ("adaptation.margin_bottom", -0.1),
    ("adaptation.margin_left", 1.0),
    ("adaptation.margin_right", 0.7),
    ("adaptation.mixing", "cutmix"),
    ("adaptation.foreground_paste_share", 1.5),
    ("adaptation.foreground_paste_margin", -1),
    ("adaptation.jitter_probability", 80.0),
    ("adaptation.jitter_strength", 0.6),
    ("adaptation.blur_probability", -0.5),
    ("adaptation.blur_sigma_min", 0.0),
    ("adaptation.blur_sigma_min", 2.0),
    ("adaptation.feature_distance_weight", -0.005),
    ("adaptation.feature_distance_min_ratio", 1.5),
    ("adaptation.mask_weight", -0.5),
    ("adaptation.class_balance", -0.5),
    ("adaptation.edge_width", -2),
    ("adaptation.colour_transfer", 1.5),
    ("adaptation.mask_block", 0),
    ("adaptation.mask_ratio", 1.5),
    ("optimisation.iterations", 0),
    ("optimisation.batch_size", 0),
    ("optimisation.accumulation", 0),
    ("optimisation.accumulation", 3),
    ("optimisation.optimizer", "adam"),
    ("optimisation.learning_rate", 0.0),
    ("optimisation.learning_rate", -1e-4),
    ("optimisation.head_factor", 0.0),
    ("optimisation.weight_decay", -0.01),
    ("optimisation.norm_weight_decay", -0.01),
    ("optimisation.beta1", 1.0),
    ("optimisation.beta2", -0.1),
    ("optimisation.momentum", 1.0),
    ("optimisation.schedule_power", -1.0),
    ("optimisation.min_learning_rate", -1e-7),
    ("optimisation.warmup_iterations", -2),
    ("optimisation.warmup_ratio", -1e-6),
    ("optimisation.clip_gradient_norm", -1.0),
    ("optimisation.dice_weight", -0.5),
    ("inference.window_height", 32),
    ("inference.window_width", -1),
    ("inference.overlap", 1.0),
    ("inference.blending", "gaussian"),
    ("inference.tile_batch", 0),
    ("inference.network", "ema"),
    ("inference.tolerance", -1),
    ("schedule.validate_every", 0),
    ("schedule.checkpoint_every", 0),
    ("schedule.preview_every", 0),
    ("schedule.log_every", 0),
    ("schedule.previews", -1),
    ("schedule.keep_checkpoints", -1),
    ("schedule.early_stop", -1),
    ("schedule.time_budget", -1.0),
    ("schedule.label_free_photos", -1),
]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_out_of_range_names_field_value_and_fix(name: str, value: Any) -> None:
    message = message_of(changes(name, value))
    given, colon, fix = message.partition(": ")
    assert (given, colon) == (f"{name}={value!r}", ": ")
    assert len(fix) > 5


def test_almost_every_field_has_a_range() -> None:
    """What may hold anything is switches, texts and lists; a new number needs a check and a line above."""
    free = {f"{s}.{f.name}" for s in SECTIONS for f in dataclasses.fields(getattr(TrainConfig(), s)) if "bool" in str(f.type)}
    free |= {
        "model.encoder",
        "model.pretrained_file",
        "model.start_from",
        "data.source",
        "data.target",
        "data.validation",
        "data.cache",
    }
    free |= {"adaptation.feature_distance_classes", "data.fit_long", "adaptation.blur_sigma_max"}  # checked with their partner
    assert {name for name, _ in OUT_OF_RANGE} | free >= set(FIELDS)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"data": {"fit_short": 512}}, "data.fit_short=512"),
        ({"data": {"fit_long": 640}}, "data.fit_short=0"),
        ({"data": {"fit_short": 641, "fit_long": 640}}, "data.fit_short=641"),
        ({"data": {"rotate": 0.5, "crop_width": 256}}, "data.rotate=0.5"),
        ({"data": {"crop_height": 528}}, "data.crop_height=528"),
        ({"model": {"detail_loss_weight": 0.5, "context_loss_weight": 0.5}}, "model.detail_loss_weight"),
        ({"adaptation": {"blur_sigma_max": 0.1}}, "adaptation.blur_sigma_min=0.15"),
        ({"adaptation": {"band_foreground": 0.05}}, "adaptation.band_background=0.1"),
    ],
)
def test_fields_that_constrain_each_other(content: dict[str, Any], named: str) -> None:
    assert message_of(content).startswith(named)


def test_crops_of_16_go_without_half_sized_detail() -> None:
    for model in ({"multi_resolution": False}, {"detail_crop": "full"}):
        assert TrainConfig().updated({"model": model, "data": {"crop_height": 528}}).data.crop_height == 528


# -- changes ----------------------------------------------------------------------------------------------------------


def test_updated_changes_what_it_names_and_nothing_else() -> None:
    before = TrainConfig()
    after = before.updated({"mode": "supervised", "data": {"workers": 0}, "optimisation": {"iterations": 300}})
    assert (after.mode, after.data.workers, after.optimisation.iterations) == ("supervised", 0, 300)
    assert after.updated({"mode": "adapt", "data": {"workers": 4}, "optimisation": {"iterations": 10_000}}) == before
    assert before == TrainConfig()


def test_changed_reads_assignments_and_applies_them_together() -> None:
    config = TrainConfig().changed(
        ["mode=supervised", "data.fit_short=512", "data.fit_long=640", "data.source=[a, b]", "optimisation.learning_rate=6e-5"]
    )
    assert (config.mode, config.data.fit_short, config.data.fit_long) == ("supervised", 512, 640)
    assert config.data.source == ("a", "b")
    assert config.optimisation.learning_rate == 6e-5
    assert TrainConfig().changed([]) == TrainConfig()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimisation.iterations", "assignment='optimisation.iterations': write it as field=value"),
        ("optimisation.iterations=many", "optimisation.iterations='many'"),
        ("optimisation.itrations=3", "unknown field 'optimisation.itrations'"),
        ("optimisation.iterations.x=3", "optimisation.iterations={'x': 3}"),
        ("data.source=[", "not valid YAML"),
        ("=5", "unknown field ''"),
    ],
)
def test_bad_assignments(assignment: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        TrainConfig().changed([assignment])
    assert message in str(caught.value)


@pytest.mark.parametrize("section", [None, *SECTIONS])
def test_frozen(section: str | None) -> None:
    config = TrainConfig()
    part: Any = config if section is None else getattr(config, section)
    name = dataclasses.fields(part)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(part, name, getattr(part, name))
    assert hash(config) == hash(TrainConfig())


# -- resolve ----------------------------------------------------------------------------------------------------------


def settled(num_classes: int, background: bool, share: float, **given: Any) -> tuple[int, str, str]:
    config = TrainConfig().updated({"optimisation": {"iterations": 1000}, "adaptation": given})
    rule = config.resolve(num_classes, background, share).adaptation
    return rule.source_warmup, rule.pseudo_labels, rule.mixing


THIN = (500, "prior-band", "none")
PUBLISHED = (0, "confident-fraction", "class-mix")


@pytest.mark.parametrize(
    ("num_classes", "background", "share", "expected"),
    [
        (2, True, 0.03, THIN),  # cracks
        (2, True, 0.6, THIN),  # one class beside background
        (5, True, 0.05, THIN),  # several thin classes
        (5, True, 0.1, PUBLISHED),
        (19, True, 0.9, PUBLISHED),
        (19, False, 0.9, PUBLISHED),  # Cityscapes
        (2, False, 0.01, PUBLISHED),  # two classes that cover everything
        (19, False, 0.0, PUBLISHED),
    ],
)
def test_auto_follows_the_classes(num_classes: int, background: bool, share: float, expected: tuple[int, str, str]) -> None:
    assert settled(num_classes, background, share) == expected


def test_many_classes_are_balanced_and_learned_from_masked_photos() -> None:
    def auto(classes: int, **given: Any) -> tuple[float, float]:
        adaptation = TrainConfig().updated({"adaptation": given}).resolve(classes, True, 0.9 if classes > 2 else 0.03).adaptation
        return adaptation.class_balance, adaptation.mask_weight

    assert auto(19) == (0.75, 1.0)
    assert auto(2) == (0.0, 0.0)
    assert auto(2, pseudo_labels="confident-fraction") == (0.75, 0.0)
    assert auto(19, class_balance=0.0, mask_weight=0.0) == (0.0, 0.0)
    with pytest.raises(ValueError, match=r"adaptation\.class_balance=0\.3: belongs to .*confident-fraction"):
        auto(2, class_balance=0.3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"source_warmup": 0}, (0, "prior-band", "none")),
        ({"source_warmup": 700}, (700, "prior-band", "none")),
        ({"pseudo_labels": "confident-fraction"}, (500, "confident-fraction", "none")),
        ({"mixing": "class-mix"}, (500, "prior-band", "class-mix")),
        ({"mixing": "foreground"}, (500, "prior-band", "foreground")),
    ],
)
def test_explicit_values_are_kept_on_thin_classes(given: dict[str, Any], expected: tuple[int, str, str]) -> None:
    assert settled(2, True, 0.03, **given) == expected


def test_explicit_values_are_kept_on_many_classes() -> None:
    given = {"source_warmup": 5, "pseudo_labels": "band", "mixing": "none"}
    assert settled(19, True, 0.9, **given) == (5, "band", "none")


@pytest.mark.parametrize(("iterations", "expected"), [(40_000, 1500), (10_000, 1000), (600, 60), (6, 0)])
def test_the_learning_rate_rises_over_a_tenth_of_a_short_run(iterations: int, expected: int) -> None:
    config = TrainConfig().updated({"optimisation": {"iterations": iterations}})
    assert config.resolve(2, True, 0.03).optimisation.warmup_iterations == expected


@pytest.mark.parametrize(("classes", "share", "expected"), [(2, 0.03, 1.0), (2, 0.5, 1.0), (4, 0.05, 1.0), (19, 0.9, 0.0)])
@pytest.mark.parametrize("mode", MODES)
def test_thin_classes_are_learned_with_dice(mode: str, classes: int, share: float, expected: float) -> None:
    assert TrainConfig(mode=mode).resolve(classes, True, share).optimisation.dice_weight == expected


def test_nothing_else_changes() -> None:
    config = TrainConfig()
    resolved = config.resolve(2, True, 0.03)
    untouched: dict[str, Any] = {"source_warmup": -1, "pseudo_labels": "auto", "mixing": "auto", "foreground_share": -1.0}
    untouched |= {"mask_weight": -1.0, "class_balance": -1.0, "colour_transfer": -1.0}
    rounds = {
        "rounds": -1,
        "teacher_zooms": [],
        "photo_scales": [],
        "dice_weight": -1.0,
        "foreground_at_least": -1.0,
        "least_share": -1.0,
        "edge_width": -1,
        "round_crops": -1,
    }
    other = {"inference": {"zooms": []}, "model": {"class_prior": "auto"}}
    other |= {"optimisation": {"warmup_iterations": -1, "dice_weight": -1.0}}
    assert resolved.updated({"adaptation": {**untouched, **rounds}, **other}) == config
    assert resolved.resolve(19, True, 0.9) == resolved  # settled once and for all


@pytest.mark.parametrize(
    ("mode", "classes", "background", "given", "expected"),
    [
        ("adapt", 2, True, (), SEVERAL_ZOOMS),
        ("source-only", 2, True, (), SEVERAL_ZOOMS),
        ("supervised", 2, True, (), (1.0,)),  # the labels are the target's own
        ("adapt", 3, True, (), (1.0,)),
        ("adapt", 2, False, (), (1.0,)),
        ("adapt", 2, True, (1.0,), (1.0,)),
        ("adapt", 3, True, (0.5, 1.0), (0.5, 1.0)),
    ],
)
def test_one_class_beside_background_is_predicted_at_several_sizes(
    mode: str, classes: int, background: bool, given: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    config = TrainConfig(mode=mode).updated(
        {"inference": {"zooms": list(given)}, "adaptation": {"pseudo_labels": "confident-fraction"}}
    )
    assert config.resolve(classes, background, 0.03).inference.zooms == expected


@pytest.mark.parametrize(
    ("classes", "background", "given", "expected"),
    [
        (2, True, "auto", "labelled"),
        (3, True, "auto", "equal"),
        (2, False, "auto", "equal"),
        (2, True, "equal", "equal"),
        (19, False, "labelled", "labelled"),
    ],
)
def test_the_classifier_of_one_class_beside_background_begins_at_its_share(
    classes: int, background: bool, given: str, expected: str
) -> None:
    config = TrainConfig().updated({"model": {"class_prior": given}})
    assert config.resolve(classes, background, 0.03).model.class_prior == expected


def test_the_expected_foreground_is_that_of_the_labels_unless_given() -> None:
    for given, expected in ((-1.0, 0.03), (0.05, 0.05)):
        config = TrainConfig().updated({"adaptation": {"foreground_share": given}})
        assert config.resolve(2, True, 0.03).adaptation.foreground_share == expected


@pytest.mark.parametrize("given", [{"pseudo_labels": "band"}, {"pseudo_labels": "prior-band"}, {"mixing": "foreground"}])
def test_rules_for_foreground_need_a_background(given: dict[str, str]) -> None:
    [(name, value)] = given.items()
    with pytest.raises(ValueError, match=f"adaptation.{name}='{value}': needs a class named 'background'"):
        settled(3, False, 0.5, **given)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_a_configuration(mode: str) -> None:
    assert TrainConfig(mode=mode).mode == mode
