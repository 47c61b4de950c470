"""What the user watches during training: status, progress, curves, predictions on the target photos."""

from __future__ import annotations

import html
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from supervisely.app.widgets import Container, Field, Flexbox, Image, LineChart, Text

from train_app.runner import Event

CHARTS = ("Losses", "Foreground IoU", "IoU per class", "Pseudo-labels", "Scores without labels", "Learning rate")
MAX_POINTS = 300  # of a curve; beyond, every second one goes
REFRESH = 1.0  # seconds between updates of the page
SLOTS = 8  # previews shown at once
SECONDS = (("h", 3600), ("min", 60), ("s", 1))


class Curves:
    """Points of all curves, as many as a page can hold however long the run."""

    def __init__(self) -> None:
        self.series: dict[str, dict[str, list[tuple[int, float]]]] = {title: {} for title in CHARTS}

    def add(self, iteration: int, values: Mapping[str, float]) -> set[str]:
        """Returns the titles of the charts that changed. A resumed run repeats iterations, which replace the old points."""
        changed = set()
        for name, value in values.items():
            place = curve_of(name)
            if place is None:
                continue
            chart, curve = place
            points = self.series[chart].setdefault(curve, [])
            while points and points[-1][0] >= iteration:
                points.pop()
            points.append((iteration, round(value, 6)))
            if len(points) > MAX_POINTS:
                del points[1:-1:2]  # the first and the last stay
            changed.add(chart)
        return changed


def curve_of(metric: str) -> tuple[str, str] | None:
    """The chart and the curve that show a metric, None for those that the report alone shows."""
    first, _, rest = metric.partition("/")
    network, _, figure = rest.partition("/")
    if metric == "learning_rate":
        return "Learning rate", "encoder"
    if first == "loss":
        return "Losses", rest
    if first == "pseudo":
        return "Pseudo-labels", rest
    if first == "validation" and figure == "foreground_iou":
        return "Foreground IoU", network
    if first == "validation" and network == "teacher" and figure.startswith("iou/"):
        return "IoU per class", figure.removeprefix("iou/")
    if first == "label_free" and network == "teacher" and (figure.endswith("agreement") or figure == "uncertain"):
        return "Scores without labels", figure
    return None


class TrainingView:
    """Widgets, and `hear`, which shows an event of the child process; the page changes about once a second."""

    def __init__(self) -> None:
        self.curves = Curves()
        self.status = Text("", status="info", widget_id="hrda_status")
        self.notices = Text("", status="warning", widget_id="hrda_notices")
        self.charts = {title: LineChart(title, [], xaxis_type="numeric", yaxis_autorescale=True, height=250) for title in CHARTS}
        self.previews = [Image(widget_id=f"hrda_preview_{i}") for i in range(SLOTS)]
        self.preview_text = Text("Predictions appear with the first evaluation", widget_id="hrda_preview_text")
        self.notices.hide()
        for image in self.previews:
            image.hide()
        self.widgets = [
            self.status,
            self.notices,
            Flexbox(list(self.charts.values())),
            Field(Container([self.preview_text, *self.previews]), "Your photos", "Photo, prediction, confidence"),
        ]
        self._stage, self._told = "", set[str]()
        self._started: tuple[float, int] | None = None  # time and iteration of the stage's first progress
        self._shown, self._pending = 0.0, ""
        self._changed: set[str] = set()
        self._lock = threading.Lock()

    def reset(self) -> None:
        self.curves = Curves()
        self._told, self._changed = set(), set(CHARTS)
        self.notices.hide()
        self._refresh()

    def hear(self, event: Event) -> None:
        with self._lock:
            self._hear(event)

    def say(self, text: str) -> None:
        """Shows a sentence as the status, about once a second."""
        self._pending = text
        if time.monotonic() - self._shown >= REFRESH:
            self._refresh()

    def notice(self, text: str) -> None:
        """Adds a sentence to those that stay; each once."""
        if text in self._told:
            return
        self._told.add(text)
        lines = [html.escape(line) for line in sorted(self._told)]
        self.notices.set("<br>".join(lines[:20]), "warning")
        self.notices.show()

    def _hear(self, event: Event) -> None:
        kind, iteration = event["event"], event["iteration"]
        if kind == "Stage":
            self._stage, self._started = event["name"], None
            self.say(f"{_capital(self._stage)} ...")
        elif kind == "Preparation":
            self.say(f"Checking data: {event['done']} of {event['total']} images")
        elif kind == "Progress":
            self._started = self._started or (event["time"], iteration)
            self.say(self._progress(event))
        elif kind == "Metrics":
            self._changed |= self.curves.add(iteration, event["values"])
        elif kind == "Preview":
            self._show_previews(event)
        elif kind == "Notice":
            self.notice(event["text"])
        elif kind in ("Finished", "Failed"):
            self._refresh()

    def _progress(self, event: Event) -> str:
        done, total = event["iteration"], event["total"]
        text = f"{_capital(self._stage)}: iteration {done} of {total}"
        since, first = self._started or (event["time"], done)
        if done > first and event["time"] > since:
            left = (total - done) * (event["time"] - since) / (done - first)
            text += f", {duration(left)} left"
        return text

    def _show_previews(self, event: Event) -> None:
        self.preview_text.text = f"{_capital(self._stage)}, after {event['iteration']} iterations"
        paths = list(event["pictures"].values())[:SLOTS]
        for image, path in zip(self.previews, paths, strict=False):
            folder = "baseline/" if Path(path).parents[1].name == "baseline" else ""
            image.set(f"previews/{folder}{Path(path).name}")
            image.show()

    def _refresh(self) -> None:
        self._shown = time.monotonic()
        self.status.text = self._pending
        for title in self._changed:
            series = [{"name": name, "data": [{"x": x, "y": y} for x, y in p]} for name, p in self.curves.series[title].items()]
            self.charts[title].set_series(series)
        self._changed = set()


def preview_file(run: Path, name: str) -> Path | None:
    """The picture that a URL below previews/ names, None where that is no picture of the run."""
    if not re.fullmatch(r"(baseline/)?[^/\\]+\.jpg", name):
        return None
    parent = run / "baseline" if name.startswith("baseline/") else run
    path = parent / "previews" / name.removeprefix("baseline/")
    return path if path.is_file() else None


def duration(seconds: float) -> str:
    """4000 -> "1 h 6 min", 70 -> "1 min 10 s"."""
    rest, parts = round(seconds), []
    for unit, size in SECONDS:
        if rest >= size or (unit == "s" and not parts):
            parts.append(f"{rest // size} {unit}")
            rest %= size
    return " ".join(parts[:2])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
