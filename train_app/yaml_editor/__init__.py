"""The SDK's editor, which tells when the user has left it: its own tells nothing of what is typed."""

from __future__ import annotations

from collections.abc import Callable

from supervisely.app.widgets import Editor


class YamlEditor(Editor):
    """An editor of YAML. `left` is called with its text whenever the focus leaves it."""

    def __init__(self, text: str, height_lines: int, widget_id: str) -> None:
        super().__init__(text, height_lines=height_lines, language_mode="yaml", restore_default_button=False, widget_id=widget_id)
        self._file_path = __file__  # its template lies here

    def left(self, function: Callable[[str], None]) -> None:
        @self._sly_app.get_server().post(self.get_route_path("left"))
        def _left() -> None:
            function(self.get_text())

    def disable(self) -> None:
        self.readonly = True

    def enable(self) -> None:
        self.readonly = False
