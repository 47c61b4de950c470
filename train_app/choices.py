"""What the user chooses: projects and datasets for every role, and the classes."""

from __future__ import annotations

from dataclasses import dataclass, field

from train_app.labels import ClassChoice

ROLES = ("source", "target", "validation")


@dataclass(frozen=True)
class ProjectChoice:
    """A project. dataset_ids: the chosen datasets, each with those inside it; () = all."""

    project_id: int
    dataset_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ValidationChoice:
    """Where labelled images to measure on come from.

    method: "none"; "project" = those of `projects`; "share" = `percent` of the labelled target images, which are then no
    target images any more. unlabelled: what a validation image without any object means, "skip" (nobody has labelled it) or
    "background" (it shows none of the classes).
    """

    method: str = "none"
    projects: tuple[ProjectChoice, ...] = ()
    percent: int = 10
    unlabelled: str = "skip"


@dataclass(frozen=True)
class DataChoice:
    """All of it. use_target_labels: learn from labels of target images as well, where there are some. unlabelled_source: as
    `ValidationChoice.unlabelled`, for the source."""

    source: tuple[ProjectChoice, ...]
    target: tuple[ProjectChoice, ...]
    classes: ClassChoice
    validation: ValidationChoice = field(default_factory=ValidationChoice)
    use_target_labels: bool = False
    unlabelled_source: str = "skip"

    def projects(self, role: str) -> tuple[ProjectChoice, ...]:
        if role == "validation":
            return self.validation.projects if self.validation.method == "project" else ()
        return self.source if role == "source" else self.target
