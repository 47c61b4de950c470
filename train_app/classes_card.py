"""The card on which it is chosen what becomes of each class: learned, joined with another, ignored, or not drawn."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

import supervisely as sly
from supervisely.app.widgets import Button, Card, Checkbox, ClassesTable, Container, Field, Select, Text, Widget

from hrda_core.data.classes import BACKGROUND_NAMES
from train_app.choices import ProjectChoice
from train_app.class_counts import ClassCounts, count_classes
from train_app.errors import UserError
from train_app.labels import BACKGROUND, ClassChoice
from train_app.source_target import show_outcome

SHAPES = [sly.Bitmap, sly.Polygon, sly.Rectangle, sly.AlphaMask, sly.AnyGeometry]
MOST_ROWS = 60  # of the table of fates
CELL = "padding:4px 16px 4px 0;text-align:left;border:0;border-bottom:1px solid #eef0f4"


class ClassesCard:
    """Ticked classes are learned. ignored, merged: as in `ClassChoice`."""

    title = "Classes"

    def __init__(
        self, project_id: int, classes: Sequence[str] = (), model_selector: Any = None, app_options: dict[str, Any] | None = None
    ) -> None:
        self._api = sly.Api.from_env()
        self._names: list[str] = []  # of the source
        self._everywhere: list[str] = []  # and of the other roles
        self._counts = ClassCounts()
        self.ignored: tuple[str, ...] = ()
        self.merged: tuple[tuple[str, str], ...] = ()
        self.classes_table = ClassesTable(project_id=project_id, allowed_types=SHAPES, widget_id="hrda_classes")
        self.background = Checkbox(
            "Pixels outside all objects are background (class 0)", checked=True, widget_id="hrda_background"
        )
        self.ignore = Select([], filterable=True, multiple=True, placeholder="none", width_px=420, widget_id="hrda_ignored")
        self.joining = Select([], filterable=True, multiple=True, placeholder="classes", width_px=300, widget_id="hrda_joining")
        self.joined = Select([], filterable=True, placeholder="join this one", width_px=200, widget_id="hrda_joined")
        self.merge_button = Button("Merge", button_size="small", widget_id="hrda_merge")
        self.unmerge_button = Button("Undo merges", plain=True, button_size="small", widget_id="hrda_unmerge")
        self.fates = Text("", widget_id="hrda_fates")
        self.validator_text = Text("", widget_id="hrda_classes_text")
        self.validator_text.hide()
        self.button = Button("Select", widget_id="hrda_classes_button")
        merging: list[Widget] = [self.joining, self.joined, self.merge_button, self.unmerge_button]
        self.card = Card(
            title=self.title,
            description="Bitmaps, polygons, rectangles and alpha masks are all turned into masks; objects drawn later lie on top",
            content=Container(
                [
                    *(self.classes_table, self.background),
                    Field(Container(merging, "horizontal", overflow="wrap", fractions=[0] * 4), "Merge", MERGE_HINT),
                    Field(self.ignore, "Ignore", "Pixels of these classes are neither learned nor measured (255 in masks)"),
                    Field(self.fates, "What becomes of each class"),
                    *(self.validator_text, self.button),
                ]
            ),
            lock_message="Select previous step to unlock",
            collapsable=(app_options or {}).get("collapsable", False),
        )
        self.card.lock()
        self.read_projects([ProjectChoice(project_id)])
        self.classes_table.value_changed(self._ticked)
        self.background.value_changed(lambda checked: self._show())
        self.ignore.value_changed(self._ignored)
        self.merge_button.click(self._merge)
        self.unmerge_button.click(self._unmerge)

    @property
    def widgets_to_disable(self) -> list[Any]:
        merging = [self.joining, self.joined, self.merge_button, self.unmerge_button]
        return [self.classes_table, self.background, self.ignore, *merging]

    def read_projects(self, source: Sequence[ProjectChoice], others: Sequence[ProjectChoice] = ()) -> None:
        """Shows the classes of the source projects, by name; what was selected stays selected.

        Args:
            others: of the other roles, whose classes can join those of the source or be ignored.
        """
        selected = self.get_selected_classes()
        meta = self._meta(source)
        if len(source) == 1:
            self.classes_table.read_project_from_id(source[0].project_id)
        else:
            self.classes_table.read_meta(meta)
        self._names = _drawable(meta)
        self._everywhere = list(dict.fromkeys([*self._names, *_drawable(self._meta(others))]))
        self._counts = count_classes(self._api, source)
        self.classes_table.select_classes(selected)
        if not self.get_selected_classes():
            self.classes_table.select_classes([name for name in self._names if name.lower() not in BACKGROUND_NAMES])
        self._show()

    def choice(self) -> ClassChoice:
        return ClassChoice(tuple(self.get_selected_classes()), self.background.is_checked(), self.ignored, self.merged)

    def set(self, choice: ClassChoice, strict: bool = True) -> None:
        """Raises UserError where a class is not in the source, unless not `strict`."""
        missing = [name for name in choice.names if name not in self._names]
        if missing and strict:
            known = ", ".join(sorted(self._names)) or "none"
            raise UserError(f"classes: {', '.join(missing)} not in the source, which has {known}")
        self.classes_table.select_classes(list(choice.names))
        (self.background.check if choice.background else self.background.uncheck)()
        self.ignored, self.merged = choice.ignored, choice.merged
        self._show()

    def get_selected_classes(self) -> list[str]:
        return [str(name) for name in self.classes_table.get_selected_classes()]

    def set_classes(self, classes: Sequence[str]) -> None:
        self.classes_table.select_classes(list(classes))

    def get_wrong_shape_classes(self, task_type: str) -> list[str]:
        """None: every shape that can be chosen is drawn as it is."""
        return []

    def is_convert_class_shapes_enabled(self) -> bool:
        return False

    def validate_step(self) -> bool:
        problems: list[str] = []
        try:
            names = self.choice().index_names
        except UserError as error:
            names, problems = (), str(error).split("\n")
        return show_outcome(self.validator_text, problems, f"The model learns {len(names)} classes: {', '.join(names)}")

    # -- what the user does --------------------------------------------------------------------------------------

    def _ticked(self, names: Sequence[str]) -> None:
        """A class has one fate: who is ticked is neither ignored nor merged any more."""
        self._free(names)
        self._show()

    def _ignored(self, names: Sequence[str] | None) -> None:
        wanted = tuple(names or ())
        if wanted != self.ignored:  # the page tells of what the server has set, too
            self._free(wanted)
            self.ignored = wanted
            self._untick(wanted)
            self._show()

    def _merge(self) -> None:
        into = self.joined.get_value()
        names = [name for name in self.joining.get_value() or () if name != into]
        if into and names:
            self._free(names)
            self._untick(names)
            self.merged = (*self.merged, *((name, into) for name in names))
        self.joining.set_value([])
        self._show()

    def _unmerge(self) -> None:
        self.merged = ()
        self._show()

    def _free(self, names: Iterable[str]) -> None:
        taken = set(names)
        self.ignored = tuple(name for name in self.ignored if name not in taken)
        # what was to join one of them stays, and is refused in words where that is not learned any more
        self.merged = tuple((name, into) for name, into in self.merged if name not in taken)

    def _untick(self, names: Iterable[str]) -> None:
        self.classes_table.select_classes([name for name in self.get_selected_classes() if name not in set(names)])

    # -- what the user sees --------------------------------------------------------------------------------------

    def _show(self) -> None:
        learned = [*self.get_selected_classes(), *([BACKGROUND] if self.background.is_checked() else [])]
        _offer(self.ignore, dict.fromkeys([*self._everywhere, *self.ignored]), list(self.ignored))
        _offer(self.joining, self._everywhere, [name for name in self.joining.get_value() or () if name in self._everywhere])
        joined = self.joined.get_value()
        _offer(self.joined, dict.fromkeys(learned), joined if joined in learned else None)
        self.fates.text = self._table()

    def _table(self) -> str:
        """Class by class; those of the other roles only where something becomes of them."""
        merged, selected = dict(self.merged), self.get_selected_classes()
        names = list(dict.fromkeys([*self._names, *self.ignored, *merged]))
        absent = "background" if self.background.is_checked() else "ignored (255), as is all that no object covers"
        rows = []
        for name in names[:MOST_ROWS]:
            if name in selected:
                fate = "<b>learned</b>"
            elif name in merged:
                fate = f"joins <b>{html.escape(merged[name])}</b>"
            else:
                fate = "ignored (255)" if name in self.ignored else f"not drawn: {absent}"
            rows.append((html.escape(name), f"{self._counts.images[name]}", f"{self._counts.objects[name]}", fate))
        head = ("Class", "Images of the source", "Objects", "")
        lines = _line("th", head) + "".join(_line("td", row) for row in rows)
        more = f"and {len(names) - MOST_ROWS} more" if len(names) > MOST_ROWS else ""
        return f'<table style="border-collapse:collapse">{lines}</table>{more}'

    def _meta(self, projects: Sequence[ProjectChoice]) -> sly.ProjectMeta:
        """Classes of all these projects; the first one that has a class gives its shape and colour."""
        meta = sly.ProjectMeta()
        for project_id in dict.fromkeys(project.project_id for project in projects):
            try:
                theirs = sly.ProjectMeta.from_json(self._api.project.get_meta(project_id))
            except Exception as error:  # a project that is gone is refused at Start, in words
                sly.logger.debug("no classes of project %s: %r", project_id, error)
                continue
            for item in theirs.obj_classes:
                if meta.get_obj_class(item.name) is None:
                    meta = meta.add_obj_class(item)
        return meta


MERGE_HINT = "Choose classes, the class that they join, and press Merge; 'background' is possible, too"


def _drawable(meta: sly.ProjectMeta) -> list[str]:
    """Without shapes that cover no pixels."""
    return [item.name for item in meta.obj_classes if item.geometry_type in SHAPES]


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag} style={CELL!r}>{cell}</{tag}>' for cell in cells)}</tr>"


def _offer(select: Select, names: Iterable[str], value: Any) -> None:
    """Other items; the widget would take the first one for the value."""
    items = list(names)
    if [item.value for item in select.get_items()] != items:
        select.set([Select.Item(name) for name in items])
    if select.get_value() != value:
        select.set_value(value)
