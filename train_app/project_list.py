"""A widget for several projects of one role: a project and its datasets, added to a list."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import supervisely as sly
from supervisely.app.widgets import Button, Container, Flexbox, SelectDatasetTree, Text, Widget

from train_app.choices import ProjectChoice
from train_app.role_overview import RoleOverview

SHOWN_DATASETS = 4


class ProjectList:
    """Chosen projects with their datasets, how many images they have, and thumbnails of some.

    Args:
        name: of the role; widgets are called after it.
        chosen: the projects that are chosen at the beginning.
        empty: what the list says while nothing is chosen.
        changed: called after every change.
    """

    def __init__(
        self,
        api: sly.Api,
        name: str,
        chosen: Sequence[ProjectChoice] = (),
        empty: str = "Nothing is chosen yet.",
        changed: Callable[[], None] | None = None,
    ) -> None:
        self._api, self._empty, self._changed = api, empty, changed
        self.selector = SelectDatasetTree(
            multiselect=True,
            select_all_datasets=True,
            allowed_project_types=[sly.ProjectType.IMAGES],
            show_selectors_labels=True,
            widget_id=f"hrda_{name}_selector",
            width=260,
        )
        # the widget takes the launched project for itself, which would choose it twice
        self.selector.set_project_id(None)
        self._add = Button("Add this project", icon="zmdi zmdi-plus", button_size="small", widget_id=f"hrda_{name}_add")
        self._clear = Button("Clear", plain=True, button_size="small", widget_id=f"hrda_{name}_clear")
        self._text = Text("", status="text", widget_id=f"hrda_{name}_list")
        self._chosen: list[ProjectChoice] = []
        self.overview = RoleOverview(api, name)
        buttons = Flexbox([self._add, self._clear])
        self.widget: Widget = Container([self._text, self.overview.widget, self.selector, buttons])
        self.set(chosen)
        self._add.click(self._add_selected)
        # what is chosen counts; the button is for those who choose the same datasets again after "Clear"
        self.selector.project_changed(lambda project_id: self._add_selected())
        self.selector.value_changed(lambda dataset_ids: self._add_selected())
        self._clear.click(lambda: self._set_and_tell(()))

    def get(self) -> tuple[ProjectChoice, ...]:
        """The list; what is selected but not added counts where the list is empty."""
        selected = self._selected()
        return tuple(self._chosen) or (() if selected is None else (selected,))

    def set(self, chosen: Sequence[ProjectChoice]) -> None:
        self._chosen = list(chosen)
        self._text.set("<br>".join(self._describe(project) for project in chosen) or self._empty, "text")
        self.overview.update(chosen)

    def enable(self) -> None:
        for widget in (self.selector, self._add, self._clear):
            widget.enable()

    def disable(self) -> None:
        for widget in (self.selector, self._add, self._clear):
            widget.disable()

    def _selected(self) -> ProjectChoice | None:
        project_id = self.selector.get_selected_project_id()
        if project_id is None:
            return None
        everything = self.selector.is_all_selected()
        return ProjectChoice(project_id, () if everything else tuple(self.selector.get_selected_ids() or ()))

    def _add_selected(self) -> None:
        selected = self._selected()
        if selected is not None:
            others = [project for project in self._chosen if project.project_id != selected.project_id]
            self._set_and_tell((*others, selected))

    def _set_and_tell(self, chosen: Sequence[ProjectChoice]) -> None:
        self.set(chosen)
        if self._changed is not None:
            self._changed()

    def _describe(self, choice: ProjectChoice) -> str:
        """One line; a project that cannot be read is shown by its id, and refused with its reason later."""
        project = self._api.project.get_info_by_id(choice.project_id)
        if project is None:
            return f"project {choice.project_id}"
        if not choice.dataset_ids:
            return f"<b>{html.escape(project.name)}</b>: all datasets, {project.items_count} images"
        infos = {info.id: info for info in self._api.dataset.get_list(choice.project_id, recursive=True)}
        names = [infos[i].name if i in infos else str(i) for i in choice.dataset_ids]
        more = f" and {len(names) - SHOWN_DATASETS} more" if len(names) > SHOWN_DATASETS else ""
        return f"<b>{html.escape(project.name)}</b>: {html.escape(', '.join(names[:SHOWN_DATASETS]))}{more}"
