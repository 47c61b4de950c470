"""The cards of the wizard as a user sees them, without a browser or a platform."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page import empty_page, type_into

from hrda_core import preset
from hrda_core.presets import PRESETS
from train_app.hyperparameter_form import SETTINGS
from train_app.hyperparameters_card import PRESET_LABELS, TEMPLATE, HyperparametersCard
from train_app.settings import read_yaml
from train_app.settings_text import preset_text, with_field

DEFAULTS = TEMPLATE.read_text()


@pytest.fixture(autouse=True)
def page() -> Iterator[None]:
    with empty_page():
        yield


# ---- the hyperparameters as text


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_as_text_shows_its_numbers_and_overrides_none(name: str) -> None:
    text = preset_text(DEFAULTS, name)
    assert read_yaml(text).preset == name and read_yaml(text).changes == {}
    assert f"#   iterations: {preset(name).optimisation.iterations}\n" in text
    assert f"The numbers are those of the preset {name}." in text


def test_a_change_goes_into_its_line_and_comments_stay() -> None:
    text = with_field(with_field(DEFAULTS, "optimisation.batch_size", 6), "seed", 3)
    assert "\noptimisation:\n#   iterations: 10000\n  batch_size: 6            # source crops per iteration" in text
    assert "\nseed: 3\n" in text
    assert read_yaml(text).changes == {"seed": 3, "optimisation": {"batch_size": 6}}


def test_a_change_back_to_the_presets_value_leaves_the_text_as_it_was() -> None:
    text = with_field(DEFAULTS, "optimisation.batch_size", 6)
    assert with_field(text, "optimisation.batch_size", 2) == DEFAULTS


def test_a_field_without_a_line_gets_one() -> None:
    text = with_field(DEFAULTS, "adaptation.mask_block", 32)
    assert "\nadaptation:\n  mask_block: 32\n" in text
    assert with_field("", "schedule.log_every", 5) == "schedule:\n  log_every: 5\n"


def test_text_that_is_laid_out_otherwise_is_written_anew() -> None:
    text = with_field("optimisation: {iterations: 5, momentum: 0.5}  # mine\npreset: quick", "optimisation.batch_size", 3)
    assert read_yaml(text).preset == "quick"
    assert read_yaml(text).changes == {"optimisation": {"iterations": 5, "momentum": 0.5, "batch_size": 3}}


# ---- the card of the hyperparameters


def test_every_setting_of_the_form_is_a_field_and_every_preset_can_be_chosen() -> None:
    assert set(PRESET_LABELS) == set(PRESETS)
    card = HyperparametersCard(DEFAULTS)
    for name in PRESETS:
        type_into(card.preset, value=name)
        card._preset_chosen(name)
        written = read_yaml(card.get_hyperparameters())
        assert written.preset == name and written.config() == preset(name)
        assert {s.path: card.form.get(s.path) for s in SETTINGS} == {s.path: written.value(s.path) for s in SETTINGS}


def test_the_form_writes_into_the_yaml() -> None:
    card = HyperparametersCard(DEFAULTS)
    card._form_changed("optimisation.learning_rate", 1e-4)
    card._form_changed("data.crop_height", 256)
    card._form_changed("data.rare_class_sampling", False)
    assert read_yaml(card.get_hyperparameters()).changes == {
        "optimisation": {"learning_rate": 1e-4},
        "data": {"crop_height": 256, "rare_class_sampling": False},
    }
    assert card.validate_step()


def test_the_yaml_shows_in_the_form() -> None:
    card = HyperparametersCard(DEFAULTS)
    type_into(card.editor, text="preset: quick\nadaptation: {mixing: foreground}\noptimisation: {learning_rate: 1e-3}")
    card.refresh()  # as when the focus leaves the editor
    assert card.preset.get_value() == "quick"
    assert card.form.get("adaptation.mixing") == "foreground"
    assert card.form.get("data.crop_width") == 128


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("optimisation.iterations", -5, "optimisation.iterations=-5: use at least 1"),
        ("data.crop_height", 500, "data.crop_height=500: use a multiple of 16, at least 64"),
        ("optimisation.learning_rate", "fast", "optimisation.learning_rate=&#x27;fast&#x27;: must be of type float"),
        ("data.fit_short", 512, "data.fit_short=512: set fit_short and fit_long both, or none"),
        ("adaptation.mask_weight", -1.0, "adaptation.mask_weight=-1.0: must not be negative"),
    ],
)
def test_a_wrong_value_is_refused_at_once_with_the_reason(path: str, value: object, words: str) -> None:
    card = HyperparametersCard(DEFAULTS)
    card._form_changed(path, value)
    assert words in card.problem.text and not card.problem.is_hidden()
    assert not card.validate_step() and words in card.validator_text.text
    card._form_changed(path, read_yaml("").value(path))
    assert card.problem.is_hidden() and card.validate_step()


def test_edges_that_go_together_can_be_set_one_after_the_other() -> None:
    card = HyperparametersCard(DEFAULTS)
    card._form_changed("data.fit_short", 512)
    card._form_changed("data.fit_long", 640)
    assert card.validate_step()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optimisation: {iteration: 5}", "unknown field &#x27;optimisation.iteration&#x27;: the fields here are iterations"),
        ("optimization: {}", "unknown field &#x27;optimization&#x27;"),
        ("preset: huge", "preset=&#x27;huge&#x27;: use one of quick, standard"),
        ("a: [", "The hyperparameters are no YAML"),
        ("data: {source: [x]}", "the data are chosen in the Source and target card"),
    ],
)
def test_a_mistake_in_the_yaml_is_told_and_the_form_stays(text: str, words: str) -> None:
    card = HyperparametersCard(DEFAULTS)
    type_into(card.editor, text=text)
    card.refresh()
    assert words in card.problem.text
    assert card.form.get("optimisation.iterations") == 10_000
    assert not card.validate_step()
    card._preset_chosen("quick" if "preset" not in text else "standard")
    assert card.validate_step()


def test_what_the_server_has_set_itself_changes_nothing() -> None:
    """A page tells of every change of a widget, also of those that came from the server."""
    card = HyperparametersCard("preset: quick\noptimisation: {iterations: 50}")
    before = card.get_hyperparameters()
    card._preset_chosen("quick")
    for setting in SETTINGS:
        card._form_changed(setting.path, card.form.get(setting.path))
    assert card.get_hyperparameters() == before


def test_reset_takes_the_presets_values_again() -> None:
    card = HyperparametersCard("preset: quick\noptimisation: {iterations: 50}")
    card._reset()
    assert card.form.get("optimisation.iterations") == 600
    assert read_yaml(card.get_hyperparameters()).changes == {}


def test_a_card_that_is_done_takes_no_changes() -> None:
    card = HyperparametersCard(DEFAULTS)
    for widget in card.widgets_to_disable:
        widget.disable()
    assert card.editor.readonly and card.preset.is_disabled()
    for widget in card.widgets_to_disable:
        widget.enable()
    assert not card.editor.readonly


def test_the_editor_tells_when_it_is_left() -> None:
    html = str(HyperparametersCard(DEFAULTS).editor.to_html())
    assert "@focusout=\"post('/hrda_yaml/left')\"" in html
    assert "hrda_yaml.text" in html and Path(TEMPLATE).name == "hyperparameters.yaml"
