"""Whether the platform can evaluate the model itself: its report compares with one labelled project."""

from __future__ import annotations

import supervisely as sly

from train_app.choices import DataChoice, ProjectChoice


def benchmark_projects(choice: DataChoice) -> tuple[ProjectChoice, ...]:
    """The projects that the validation images are in."""
    return choice.validation.projects if choice.validation.method == "project" else choice.target


def why_no_benchmark(api: sly.Api, choice: DataChoice) -> str:
    """Why it cannot, "" where it can."""
    projects, classes = benchmark_projects(choice), choice.classes
    if choice.validation.method == "none":
        return "there are no validation images"
    if len({project.project_id for project in projects}) > 1:
        return "it compares with one project, and the validation images are in several"
    if classes.merged or classes.ignored or not classes.background:
        return "it knows neither merged nor ignored classes, nor models without a background"
    meta = sly.ProjectMeta.from_json(api.project.get_meta(projects[0].project_id))
    shapes = {name: c.geometry_type.geometry_name() for name in classes.names if (c := meta.get_obj_class(name)) is not None}
    others = [f"{name} ({shape})" for name, shape in shapes.items() if shape != "bitmap"]
    return f"it compares bitmaps only, and the validation project has {', '.join(others)}" if others else ""
