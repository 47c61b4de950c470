"""The cards of the wizard as a user sees them, without a browser or a platform."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import supervisely as sly
from page import empty_page, type_into

from hrda_core import preset
from hrda_core.presets import PRESETS
from train_app.choices import ProjectChoice
from train_app.classes_card import ClassesCard
from train_app.errors import UserError
from train_app.hyperparameter_form import SETTINGS, _parsed
from train_app.hyperparameters_card import PRESET_LABELS, TEMPLATE, HyperparametersCard
from train_app.labels import ClassChoice
from train_app.role_overview import RoleOverview, chosen_datasets, look_at
from train_app.settings import ModelChoice, read_settings, read_yaml
from train_app.settings_text import preset_text, with_field

DEFAULTS = TEMPLATE.read_text()


def _input(card: HyperparametersCard, path: str, text: str) -> None:
    """As if typed into the field of the form."""
    setting = next(setting for setting in SETTINGS if setting.path == path)
    card._form_changed(path, _parsed(setting, text))


@pytest.fixture(autouse=True)
def page() -> Iterator[None]:
    with empty_page():
        yield


def test_a_preset_of_another_network_names_its_learning_rate() -> None:
    card = HyperparametersCard(DEFAULTS)
    type_into(card.editor, text="preset: cracks")
    card.refresh()
    assert card.note.is_hidden()
    card.check = lambda text: read_settings(text, ModelChoice("pvt_v2_b2"))
    card.refresh()
    assert not card.note.is_hidden()
    assert "made for mobilenetv2_100; the Model card has pvt_v2_b2" in card.note.text and "(now 0.0004; " in card.note.text


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


def test_several_prediction_sizes_are_numbers_with_commas_between() -> None:
    card = HyperparametersCard(DEFAULTS)
    assert card.form.get("inference.zooms") == []
    _input(card, "inference.zooms", "0.5, 1, 2")
    assert read_yaml(card.get_hyperparameters()).config().inference.zooms == (0.5, 1.0, 2.0)
    type_into(card.editor, text="inference: {zooms: [0.7, 1.4]}")
    card.refresh()
    assert card.form._inputs["inference.zooms"].get_value() == "0.7, 1.4"
    _input(card, "inference.zooms", "small")
    assert "inference.zooms=&#x27;small&#x27;" in card.problem.text


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("optimisation.iterations", -5, "optimisation.iterations=-5: use at least 1"),
        ("data.crop_height", 500, "data.crop_height=500: use a multiple of 16, at least 64"),
        ("optimisation.learning_rate", "fast", "optimisation.learning_rate=&#x27;fast&#x27;: must be of type float"),
        ("data.fit_short", 512, "data.fit_short=512: set fit_short and fit_long both, or none"),
        ("adaptation.mask_weight", -0.5, "adaptation.mask_weight=-0.5: use 0 or more, or -1 for auto"),
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
        ("preset: huge", "preset=&#x27;huge&#x27;: use one of quick, cracks, standard"),
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


# ---- how many images a role has, and what they look like


class Platform:
    """Two projects: 1 with dataset 10 (5 images) and 11 inside it (3, of which 2 have objects), 2 with dataset 20."""

    def __init__(self) -> None:
        self.project = self.dataset = self.image = self
        self.slow, self.asked = threading.Event(), 0
        self.slow.set()

    def get_stats(self, project_id: int) -> dict[str, Any]:
        return {"images": {"total": {"imagesMarked": {1: 7, 2: 0}[project_id]}}}

    def get_list(self, id: int, recursive: bool = False, limit: int | None = None) -> list[SimpleNamespace]:
        self.slow.wait(10)
        if recursive:
            self.asked += 1
            rows = {1: [(10, None, 5), (11, 10, 3)], 2: [(20, None, 6)]}[id]
            return [SimpleNamespace(id=i, parent_id=parent, images_count=count) for i, parent, count in rows]
        infos = [
            SimpleNamespace(name=f"{id}-{n}.png", full_storage_url=f"http://x/{id}-{n}", labels_count=n < 2) for n in range(3)
        ]
        return infos[:limit]

    def preview_url(self, url: str, height: int) -> str:
        return f"{url}?h={height}"


def test_counts_and_thumbnails_of_chosen_projects() -> None:
    overview = look_at(Platform(), [ProjectChoice(1), ProjectChoice(2)])  # type: ignore[arg-type]
    assert overview.sentence() == "7 of 14 images with objects"
    assert [name for name, _ in overview.pictures] == ["10-0.png", "10-1.png", "11-0.png", "20-0.png"]
    assert overview.pictures[0][1] == "http://x/10-0?h=192"


def test_a_dataset_counts_with_those_inside_it_and_without_its_neighbours() -> None:
    platform: Any = Platform()
    assert [d.id for d in chosen_datasets(platform, ProjectChoice(1, (10,)))] == [10, 11]
    assert look_at(platform, [ProjectChoice(1, (11,))]).sentence() == "2 of 3 images with objects"


def test_the_page_never_waits_for_the_platform_and_shows_the_latest_choice() -> None:
    platform: Any = Platform()
    platform.slow.clear()
    role, seen = RoleOverview(platform, "target"), []
    role.seen = seen.append
    role.update([ProjectChoice(1)])
    first = role.thread
    role.update([ProjectChoice(2)])
    assert role.text.text == "Counting images ..."
    platform.slow.set()
    for thread in (first, role.thread):
        assert thread is not None
        thread.join(10)
    assert role.text.text == "0 of 6 images with objects"
    assert 'loading="lazy"' in role.pictures.text and "20-0.png" in role.pictures.text and "10-0.png" not in role.pictures.text
    role.update([])
    assert (role.text.text, role.pictures.text) == ("", "") and seen[-1] is None


def test_a_project_that_cannot_be_read_is_no_disaster() -> None:
    role = RoleOverview(Platform(), "target")  # type: ignore[arg-type]
    role.update([ProjectChoice(9)])
    assert role.thread is not None
    role.thread.join(10)
    assert role.text.text == "The images cannot be listed at the moment"


# ---- what becomes of each class


META = sly.ProjectMeta([sly.ObjClass(name, sly.Bitmap) for name in ("crack", "hairline", "mud", "joint")])


class Labelled:
    """Every project has the four classes; crack occurs 5 times on 3 images of dataset 10 and once in dataset 11."""

    def __init__(self) -> None:
        self.project = self.dataset = self

    @classmethod
    def from_env(cls) -> Labelled:
        return cls()

    def get_meta(self, project_id: int) -> dict[str, Any]:
        if project_id > 5:
            raise KeyError(project_id)
        return dict(META.to_json())

    def get_info_by_id(self, project_id: int) -> SimpleNamespace:
        return SimpleNamespace(type="images")

    def get_stats(self, project_id: int) -> dict[str, Any]:
        def row(name: str, ten: int, eleven: int) -> dict[str, Any]:
            parts = [{"id": 10, "count": ten}, {"id": 11, "count": eleven}]
            return {"objectClass": {"name": name}, "total": ten + eleven, "datasets": parts}

        others = [row(name, 0, 0) for name in ("hairline", "mud", "joint")]
        return {"images": {"objectClasses": [row("crack", 3, 1), *others]}, "objects": {"items": [row("crack", 5, 1), *others]}}

    def get_list(self, project_id: int, recursive: bool) -> list[SimpleNamespace]:
        return [SimpleNamespace(id=10, parent_id=None), SimpleNamespace(id=11, parent_id=None)]


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> ClassesCard:
    monkeypatch.setattr(sly, "Api", Labelled)  # the table makes one of its own
    return ClassesCard(1)


def test_all_classes_are_learned_at_first(classes: ClassesCard) -> None:
    assert classes.choice() == ClassChoice(("crack", "hairline", "mud", "joint"))
    assert classes.validate_step()
    assert classes.validator_text.text == "The model learns 5 classes: background, crack, hairline, mud, joint"


def test_classes_are_merged_and_ignored(classes: ClassesCard) -> None:
    type_into(classes.joining, value=["hairline", "joint"])
    type_into(classes.joined, value="crack")
    classes._merge()
    type_into(classes.ignore, value=["mud"])
    classes._ignored(["mud"])
    choice = classes.choice()
    assert choice == ClassChoice(("crack",), ignored=("mud",), merged=(("hairline", "crack"), ("joint", "crack")))
    assert choice.values() == {"background": 0, "crack": 1, "hairline": 1, "joint": 1, "mud": 255}
    assert "joins <b>crack</b>" in classes.fates.text and "ignored (255)" in classes.fates.text
    classes._unmerge()
    assert classes.choice().merged == () and "not drawn: background" in classes.fates.text


def test_a_class_has_one_fate(classes: ClassesCard) -> None:
    classes._ignored(["mud"])
    classes.classes_table.select_classes(["crack", "mud"])
    classes._ticked(["crack", "mud"])
    assert classes.choice() == ClassChoice(("crack", "mud"))
    assert classes.ignore.get_value() == []


def test_a_merge_into_what_is_not_learned_is_refused_in_words(classes: ClassesCard) -> None:
    type_into(classes.joining, value=["joint"])
    type_into(classes.joined, value="mud")
    classes._merge()
    classes._ignored(["mud"])
    assert not classes.validate_step()
    assert "&#x27;joint&#x27; is to join &#x27;mud&#x27;, which is not chosen" in classes.validator_text.text


def test_the_card_shows_what_a_state_says_and_counts_of_chosen_datasets(classes: ClassesCard) -> None:
    choice = ClassChoice(("crack",), background=False, ignored=("mud",), merged=(("joint", "crack"),))
    classes.read_projects([ProjectChoice(1, (10,)), ProjectChoice(2)], [ProjectChoice(9)])  # 9 does not exist
    classes.set(choice)
    assert classes.choice() == choice
    assert classes.ignore.get_value() == ["mud"] and not classes.background.is_checked()
    first = classes.fates.text.split("</tr>")[1]
    assert [re.sub("<.*?>", "", cell) for cell in first.split("</td>")][:4] == ["crack", "7", "11", "learned"]
    with pytest.raises(UserError, match="classes: moss not in the source, which has crack, hairline, joint, mud"):
        classes.set(ClassChoice(("moss",)))
