"""The user's choices as the plain data that the platform stores and the API takes, and back.

Section "input" of an app state: {"source": [project], "target": [project], "validation": {...}, ...}, where a project is
{"project_id": 1, "dataset_ids": [2, 3]} or just its id. Names are the fields of `choices.DataChoice`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from train_app.choices import DataChoice, ProjectChoice, ValidationChoice
from train_app.errors import UserError
from train_app.labels import ClassChoice

INPUT_FIELDS = (
    *("project_id", "source", "target", "validation", "use_target_labels", "unlabelled_source"),
    *("background", "ignored_classes", "merged_classes"),
)
STATE_FIELDS = (
    *("input", "model", "classes", "tags", "train_val_split", "hyperparameters", "options", "experiment_name"),
    "start_training",
)
OPTION_FIELDS = (
    *("cache_project", "convert_class_shapes", "model_benchmark", "export"),  # the SDK's
    *("devices", "continue_run", "baseline"),
)
UNLABELLED = ("skip", "background")
METHODS = ("none", "project", "share")
VALIDATION_FIELDS = ("method", "projects", "percent", "unlabelled")


def check_state(state: Any) -> dict[str, Any]:
    """A copy with every section that the SDK wants to see.

    Raises:
        UserError: an unknown or missing section, or one of the wrong kind.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"app_state={state!r}: give an object with input, model, classes, hyperparameters and options")
    _no_others("app_state", state, STATE_FIELDS)
    for name, kind in (("input", Mapping), ("classes", list), ("options", Mapping)):
        if not isinstance(state.get(name), kind if name == "classes" else (kind, type(None))):
            raise UserError(f"{name}={state.get(name)!r}: give {'a list of class names' if name == 'classes' else 'an object'}")
    model = state.get("model")
    if not isinstance(model, Mapping) or "source" not in model:
        raise UserError(f"model={model!r}: give source and name, {{'source': 'Pretrained models', 'model_name': 'pvt_v2_b2'}}")
    if not isinstance(state.get("hyperparameters"), (str, type(None))):
        raise UserError("hyperparameters: give YAML as text, such as 'preset: standard'")
    if not isinstance(state.get("experiment_name"), (str, type(None))):
        raise UserError(f"experiment_name={state['experiment_name']!r}: give a text")
    options = {"cache_project": True, **(state.get("options") or {})}
    benchmark = options.get("model_benchmark", {})
    if not isinstance(benchmark, Mapping):
        raise UserError(f"options.model_benchmark={benchmark!r}: give {{'enable': false, 'speed_test': false}}")
    options["model_benchmark"] = {"enable": False, "speed_test": False, **benchmark}
    return {**state, "input": state.get("input") or {}, "options": options, "tags": [], "train_val_split": {}}


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are ours, with their defaults: devices (none for the default), continue_run, baseline."""
    _no_others("options", options, OPTION_FIELDS)
    _flag("options.cache_project", options["cache_project"], section="")
    export = options.get("export", {})
    if not isinstance(export, Mapping):
        raise UserError(f"options.export={export!r}: give {{'enable': true, 'ONNXRuntime': true}}")
    devices = options.get("devices") or []
    if not isinstance(devices, list) or not all(isinstance(device, str) for device in devices):
        raise UserError(f"options.devices={devices!r}: give a list, ['cuda:0'], ['cpu'] or ['cuda:0', 'cuda:1']")
    numbered = len(set(devices)) == len(devices) and all(re.fullmatch(r"cuda:\d+", device) for device in devices)
    if len(devices) > 1 and not numbered:
        raise UserError(f"options.devices={devices!r}: several must be different GPUs, ['cuda:0', 'cuda:1']")
    flags = {name: _flag(f"options.{name}", options.get(name, False), section="") for name in ("continue_run", "baseline")}
    return {"devices": devices, **flags}


def choice_from_state(state: Mapping[str, Any], classes: Sequence[str], launched_on: int) -> DataChoice:
    """Reads section "input" and the list of classes.

    Args:
        launched_on: the project that the app was started on, the source where the state names none.

    Raises:
        UserError: an unknown field, or a value of the wrong kind; with the field and what may stand there.
    """
    _no_others("input", state, INPUT_FIELDS)
    validation = state.get("validation") or {}
    if not isinstance(validation, Mapping):
        raise UserError(f"input.validation={validation!r}: give an object such as {{'method': 'share', 'percent': 10}}")
    _no_others("input.validation", validation, VALIDATION_FIELDS)
    return DataChoice(
        source=_projects("source", state.get("source") or [launched_on]),
        target=_projects("target", state.get("target") or []),
        classes=ClassChoice(
            names=tuple(classes),
            background=_flag("background", state.get("background", True)),
            ignored=_names("ignored_classes", state.get("ignored_classes") or ()),
            merged=_merged(state.get("merged_classes") or {}),
        ),
        validation=ValidationChoice(
            method=_one_of("validation.method", validation.get("method", "none"), METHODS),
            projects=_projects("validation.projects", validation.get("projects") or []),
            percent=_number("validation.percent", validation.get("percent", 10)),
            unlabelled=_one_of("validation.unlabelled", validation.get("unlabelled", "skip"), UNLABELLED),
        ),
        use_target_labels=_flag("use_target_labels", state.get("use_target_labels", False)),
        unlabelled_source=_one_of("unlabelled_source", state.get("unlabelled_source", "skip"), UNLABELLED),
    )


def state_of_choice(choice: DataChoice) -> dict[str, Any]:
    """Section "input": what `choice_from_state` reads."""
    return {
        "project_id": choice.source[0].project_id if choice.source else None,
        "source": [_plain(project) for project in choice.source],
        "target": [_plain(project) for project in choice.target],
        "validation": {
            "method": choice.validation.method,
            "projects": [_plain(project) for project in choice.validation.projects],
            "percent": choice.validation.percent,
            "unlabelled": choice.validation.unlabelled,
        },
        "use_target_labels": choice.use_target_labels,
        "unlabelled_source": choice.unlabelled_source,
        "background": choice.classes.background,
        "ignored_classes": list(choice.classes.ignored),
        "merged_classes": dict(choice.classes.merged),
    }


def _plain(project: ProjectChoice) -> dict[str, Any]:
    return {"project_id": project.project_id, "dataset_ids": list(project.dataset_ids)}


def _projects(field: str, value: Any) -> tuple[ProjectChoice, ...]:
    if not isinstance(value, (list, tuple)):
        raise UserError(f"input.{field}={value!r}: give a list of project ids, or of {{'project_id': 1, 'dataset_ids': [2]}}")
    return tuple(_project(field, item) for item in value)


def _project(field: str, item: Any) -> ProjectChoice:
    if isinstance(item, int) and not isinstance(item, bool):
        return ProjectChoice(item)
    if isinstance(item, Mapping):
        _no_others(f"input.{field}", item, ("project_id", "dataset_ids"))
        datasets = item.get("dataset_ids") or []
        if isinstance(item.get("project_id"), int) and all(isinstance(number, int) for number in datasets):
            return ProjectChoice(item["project_id"], tuple(datasets))
    raise UserError(f"input.{field}: {item!r} is no project; give its id, or {{'project_id': 1, 'dataset_ids': [2, 3]}}")


def _names(field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise UserError(f"input.{field}={value!r}: give a list of class names")
    return tuple(value)


def _merged(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping):
        raise UserError(f"input.merged_classes={value!r}: give an object such as {{'hairline crack': 'crack'}}")
    return tuple((str(name), str(into)) for name, into in value.items())


def _flag(field: str, value: Any, section: str = "input.") -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{section}{field}={value!r}: use true or false")
    return value


def _one_of(field: str, value: Any, possible: Sequence[str]) -> str:
    if value not in possible:
        raise UserError(f"input.{field}={value!r}: use {' or '.join(possible)}")
    return str(value)


def _number(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"input.{field}={value!r}: use a whole number")
    return value


def _no_others(field: str, content: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [name for name in content if name not in known]
    if unknown:
        raise UserError(f"{field} has no field {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
