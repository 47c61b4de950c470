"""Predictions on the same pictures over time: a slider over the evaluations, and the pictures of the chosen one."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from supervisely.app.widgets import Button, Container, Empty, Field, Slider, Text, Widget

from train_app.gallery import gallery

MAX_MOMENTS = 50  # beyond, every second one cannot be chosen any more
MAX_PICTURES = 8
ECHO = 1.5  # seconds in which a browser may tell of what the server has set
WIDTH = 480
FILE = re.compile(r"(?P<name>.+)_(?P<iteration>\d{6,})\.jpg")


class Moment(NamedTuple):
    """An evaluation. stage: of the run. files: address below previews/ of every picture, by its name."""

    stage: str
    iteration: int
    files: Mapping[str, str]


class PreviewBrowser:
    """Shows the latest evaluation until the user looks at an earlier one."""

    def __init__(self, name: str, title: str, description: str) -> None:
        self._moments: list[Moment] = []
        self._chosen = 0
        self._lock = threading.RLock()
        self.text = Text("", widget_id=f"hrda_{name}_text")
        self.pictures = Text("", widget_id=f"hrda_{name}_pictures")
        self.slider = Slider(0, min=0, max=1, show_tooltip=False, style="padding:0 12px", widget_id=f"hrda_{name}_slider")
        self.earlier = Button("Earlier", plain=True, button_size="mini", widget_id=f"hrda_{name}_earlier")
        self.later = Button("Later", plain=True, button_size="mini", widget_id=f"hrda_{name}_later")
        buttons = Container([self.earlier, self.later, Empty()], "horizontal", fractions=[1, 1, 12])
        self._time: Widget = Container([self.slider, buttons])
        self.widget = Field(Container([self.text, self._time, self.pictures]), title, description)
        self._moved_at = -ECHO  # when the server moved the slider
        self.slider.value_changed(self._slider_moved)
        self.earlier.click(lambda: self.choose(self._chosen - 1))
        self.later.click(lambda: self.choose(self._chosen + 1))
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._moments, self._chosen = [], 0
            self.show()

    def add(self, moment: Moment) -> None:
        """To be shown by `show`. A resumed run repeats evaluations, which replace the old ones."""
        with self._lock:
            follows = self._chosen >= len(self._moments) - 1
            while self._moments and self._moments[-1].stage == moment.stage and self._moments[-1].iteration >= moment.iteration:
                self._moments.pop()
            self._moments.append(moment)
            self._chosen = min(self._chosen, len(self._moments) - 1)
            if len(self._moments) > MAX_MOMENTS:
                kept = [i for i in range(len(self._moments)) if i % 2 == 0 or i in (self._chosen, len(self._moments) - 1)]
                self._chosen = kept.index(self._chosen)
                self._moments = [self._moments[i] for i in kept]
            if follows:
                self._chosen = len(self._moments) - 1

    def choose(self, index: int) -> None:
        with self._lock:
            wanted = min(max(index, 0), max(len(self._moments) - 1, 0))
            if wanted != self._chosen:  # the page tells of what the server has set, too
                self._chosen = wanted
                self.show()

    def _slider_moved(self, index: int) -> None:
        """A browser that hears of a new value before the new maximum clamps it, and tells so as if the user had moved it."""
        if time.monotonic() - self._moved_at > ECHO:
            self.choose(index)
        elif index != self._chosen:
            self.slider.set_value(self._chosen)

    def move(self, addresses: Mapping[str, str]) -> None:
        """Other addresses for the files, by those below the run's directory; pictures without one are dropped."""
        with self._lock:
            moments = []
            for moment in self._moments:
                names = {name: unquote(address.rsplit("?", 1)[0]) for name, address in moment.files.items()}
                files = {name: addresses[path] for name, path in names.items() if path in addresses}
                if files:
                    moments.append(moment._replace(files=files))
            self._moments, self._chosen = moments, max(len(moments) - 1, 0)
            self.show()

    def show(self) -> None:
        with self._lock:
            (self.widget.show if self._moments else self.widget.hide)()
            if not self._moments:
                return
            moment, count = self._moments[self._chosen], len(self._moments)
            if count > 1 and (self.slider.get_max(), self.slider.get_value()) != (count - 1, self._chosen):
                self._moved_at = time.monotonic()
                self.slider.set_max(count - 1)
                self.slider.set_value(self._chosen)
            (self._time.show if count > 1 else self._time.hide)()
            stage = moment.stage[:1].upper() + moment.stage[1:]
            self.text.text = f"{stage}, after {moment.iteration} iterations ({self._chosen + 1} of {count})"
            self.pictures.text = gallery(list(moment.files.items())[:MAX_PICTURES], WIDTH)


def preview_address(path: str, version: float = 0) -> str:
    """The address below the app's own of a picture of a run or its baseline. version: so that browsers keep no old one."""
    parts = Path(path).parts
    position = len(parts) - 1 - parts[::-1].index("previews")
    inside = "/".join(quote(part) for part in parts[position + 1 :])
    return f"previews/{'baseline/' if parts[position - 1] == 'baseline' else ''}{inside}?{version:.0f}"


def preview_file(run: Path, name: str) -> Path | None:
    """The picture that a URL below previews/ names, None where that is no picture of the run."""
    if not re.fullmatch(r"(baseline/)?(validation/)?[^/\\]+\.jpg", name):
        return None
    parent = run / "baseline" if name.startswith("baseline/") else run
    path = parent / "previews" / name.removeprefix("baseline/")
    return path if path.is_file() else None


def moments_on_disk(folder: Path, stage: str) -> list[Moment]:
    """What a former process left in a folder of previews."""
    found: dict[int, dict[str, str]] = {}
    for path in sorted(folder.glob("*.jpg")):
        parts = FILE.fullmatch(path.name)
        if parts is not None:
            files = found.setdefault(int(parts["iteration"]), {})
            files[parts["name"]] = preview_address(str(path), path.stat().st_mtime)
    return [Moment(stage, iteration, found[iteration]) for iteration in sorted(found)]
