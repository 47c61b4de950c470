"""The card of the wizard on which the data are chosen."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import supervisely as sly
from supervisely.app.widgets import Button, Card, Checkbox, Container, Field, InputNumber, RadioGroup, Text, Widget

from train_app.choices import DataChoice, ProjectChoice, ValidationChoice
from train_app.labels import ClassChoice
from train_app.project_list import ProjectList

METHODS = (
    ("none", "None: watch scores that need no labels"),
    ("project", "Labelled photos of these projects"),
    ("share", "A share of the labelled target images"),
)


class SourceTargetCard:
    """Which images are labelled, which are to be adapted to, and what to measure on."""

    title = "Source and target"

    def __init__(self, project_info: sly.ProjectInfo, app_options: dict[str, Any] | None = None) -> None:
        api = sly.Api.from_env()
        self.launched_on = project_info.id
        self.changed: Callable[[], None] = lambda: None  # projects were added or removed
        self.source = ProjectList(
            api, "source", [ProjectChoice(project_info.id)], "No labelled project is chosen.", self._projects_changed
        )
        self.target = ProjectList(api, "target", (), "No project with real photos is chosen.", self._projects_changed)
        self.validation = ProjectList(api, "validation", (), "No validation project is chosen.", self._projects_changed)
        items = [RadioGroup.Item(value, label) for value, label in METHODS]
        self.method = RadioGroup(items, direction="vertical", widget_id="hrda_validation_method")
        self.percent = InputNumber(10, min=1, max=90, widget_id="hrda_validation_percent")
        self.use_target_labels = Checkbox("Also learn from labels that target images have", widget_id="hrda_use_target_labels")
        self.unlabelled_source = Checkbox("Source images without any object are background", widget_id="hrda_unlabelled_source")
        self.unlabelled_validation = Checkbox(
            "Validation images without any object are background", widget_id="hrda_unlabelled_validation"
        )
        self.cache = Checkbox("Keep downloaded images for later trainings", checked=True, widget_id="hrda_cache")
        self.validator_text = Text("", widget_id="hrda_input_text")
        self.validator_text.hide()
        self.button = Button("Select", widget_id="hrda_input_button")
        self.share = Text("", widget_id="hrda_validation_share")
        explained: list[tuple[str, str, Widget]] = [
            ("Source", "Labelled images, mostly synthetic ones", Container([self.source.widget, self.unlabelled_source])),
            ("Target", "Real photos; they need no labels", Container([self.target.widget, self.use_target_labels])),
            (
                "Validation",
                "Labelled photos that look like the target: for the curves, the best checkpoint and the thresholds",
                Container([self.method, self.validation.widget, self.percent, self.share, self.unlabelled_validation]),
            ),
        ]
        fields: list[Widget] = [Field(content, title, description) for title, description, content in explained]
        self.card = Card(
            title=self.title,
            description="Projects and datasets are chosen for each role on their own; no image may have two roles",
            content=Container(
                [
                    Container(fields, "horizontal", gap=28, fractions=[1] * len(fields), widgets_style="min-width:0"),
                    self.cache,
                    self.validator_text,
                    self.button,
                ]
            ),
            collapsable=(app_options or {}).get("collapsable", False),
        )
        self._show_validation(self.method.get_value())
        self.method.value_changed(self._method_changed)
        self.percent.value_changed(lambda value: self._show_share())
        self.target.overview.seen = lambda overview: self._show_share()

    @property
    def widgets_to_disable(self) -> list[Any]:
        return [
            *(self.source, self.target, self.validation, self.method, self.percent),
            *(self.use_target_labels, self.unlabelled_source, self.unlabelled_validation, self.cache),
        ]

    def choice(self, classes: ClassChoice) -> DataChoice:
        method = self.method.get_value()
        return DataChoice(
            source=self.source.get(),
            target=self.target.get(),
            classes=classes,
            validation=ValidationChoice(
                method=method,
                projects=self.validation.get() if method == "project" else (),
                percent=int(self.percent.get_value()),
                unlabelled="background" if self.unlabelled_validation.is_checked() else "skip",
            ),
            use_target_labels=self.use_target_labels.is_checked(),
            unlabelled_source="background" if self.unlabelled_source.is_checked() else "skip",
        )

    def set(self, choice: DataChoice) -> None:
        self.source.set(choice.source)
        self.target.set(choice.target)
        self.validation.set(choice.validation.projects)
        self.method.set_value(choice.validation.method)
        self.percent.value = choice.validation.percent
        self._show_share()
        for box, checked in (
            (self.use_target_labels, choice.use_target_labels),
            (self.unlabelled_source, choice.unlabelled_source == "background"),
            (self.unlabelled_validation, choice.validation.unlabelled == "background"),
        ):
            (box.check if checked else box.uncheck)()
        self._show_validation(choice.validation.method)
        self.changed()

    def get_project_id(self) -> int:
        return self.launched_on

    def set_cache(self, value: bool) -> None:
        (self.cache.check if value else self.cache.uncheck)()

    def get_cache_value(self) -> bool:
        return self.cache.is_checked()

    def validate_step(self) -> bool:
        problems = []
        if not self.source.get():
            problems.append("Source: choose the project with labelled images.")
        if not self.target.get():
            problems.append("Target: choose the project with your real photos (they need no labels).")
        if self.method.get_value() == "project" and not self.validation.get():
            problems.append("Validation: choose a project, or another way to validate.")
        return show_outcome(self.validator_text, problems, "Data are chosen")

    def _projects_changed(self) -> None:
        self.validator_text.hide()  # what it said may be mended by now
        self.changed()

    def _method_changed(self, method: str) -> None:
        self.validator_text.hide()
        self._show_validation(method)

    def _show_validation(self, method: str) -> None:
        (self.validation.widget.show if method == "project" else self.validation.widget.hide)()
        for widget in (self.percent, self.share):
            (widget.show if method == "share" else widget.hide)()
        self._show_share()
        (self.unlabelled_validation.hide if method == "none" else self.unlabelled_validation.show)()

    def _show_share(self) -> None:
        overview, percent = self.target.overview.overview, self.percent.get_value()
        if overview is None or overview.labelled is None:
            self.share.text = f"{percent} % of the labelled target images"
        elif not overview.labelled:
            self.share.text = "None of the target images has objects, so there is no share to take"
        else:
            about = max(1, round(overview.labelled * percent / 100))
            self.share.text = f"{percent} % of the {overview.labelled} labelled target images: about {about}"


def show_outcome(text: Text, problems: Sequence[str], success: str) -> bool:
    """Shows either the problems or the success; returns whether there were none."""
    text.set("<br>".join(html.escape(problem) for problem in problems) or success, "error" if problems else "success")
    text.show()
    return not problems
