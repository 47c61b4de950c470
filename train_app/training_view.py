"""What the user watches during training: status, progress, curves, predictions on the target photos."""

from __future__ import annotations

import contextlib
import html
import json
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from supervisely.app import DataJson
from supervisely.app.widgets import Apexchart, Grid, Text

from hrda_core.training.events import BASELINE
from hrda_core.training.listeners import COMPARED
from hrda_core.training.run_directory import RunDirectory
from train_app.preview_browser import Moment, PreviewBrowser, moments_on_disk, preview_address
from train_app.runner import Event

CHARTS = ("Losses", "Foreground IoU", "IoU per class", "Pseudo-labels", "Scores without labels", "Learning rate")
DECIMALS = {"Learning rate": 7}
MAX_POINTS = 100  # of a curve; beyond, every second one goes
MAX_CURVES = 12  # of a chart
COLUMNS = 3
ASIDE = {  # between iterations
    "Labelling": "The teacher labels photos",
    "Sizing": "Choosing the size at which to see photos",
    "Counting": "Counting the foreground that is found in photos",
}
REFRESH = 1.0  # seconds between updates of the page
MAX_NOTICES = 20
SECONDS = (("h", 3600), ("min", 60), ("s", 1))


class Curves:
    """Points of all curves, as many as a page can hold however long the run."""

    def __init__(self) -> None:
        self.series: dict[str, dict[str, list[tuple[int, float]]]] = {title: {} for title in CHARTS}

    def add(self, iteration: int, values: Mapping[str, float], baseline: bool = False) -> set[str]:
        """Returns the titles of the charts that changed. A resumed run repeats iterations, which replace the old points.

        Those of the run itself also replace the baseline's, but for the IoU that adapting is to raise.
        """
        changed = set()
        for name, value in values.items():
            place = curve_of(name)
            if place is None:
                continue
            chart, curve = place
            if baseline and chart == "Foreground IoU":
                curve = f"{curve}, not adapted"
            if curve not in self.series[chart] and len(self.series[chart]) >= MAX_CURVES:
                continue  # the report has them all
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
        return "Losses", rest.replace("_", " ")
    if first == "pseudo":
        return "Pseudo-labels", rest
    if first == "validation" and figure == "foreground_iou":
        return "Foreground IoU", network
    if first == "validation" and network == "teacher" and figure.startswith("iou/"):
        return "IoU per class", figure.removeprefix("iou/")
    if first == "label_free" and network == "teacher" and (figure.endswith("agreement") or figure in ("uncertain", "score")):
        return "Scores without labels", figure.replace("_", " ")
    return None


class TrainingView:
    """Widgets, and `hear`, which shows an event of the child process; the page changes about once a second."""

    def __init__(self) -> None:
        self.curves = Curves()
        self.status = Text("", status="info", widget_id="hrda_status")
        self.notices = Text("", status="warning", widget_id="hrda_notices")
        self.charts = {title: _chart(title) for title in CHARTS}
        self.previews = PreviewBrowser("preview", "Your photos", "Photo, prediction, and how sure the model is (yellow: sure)")
        self.comparisons = PreviewBrowser(
            *("comparison", "Validation images"),
            "Labels, prediction, and errors: green found, orange false alarm, blue missed, pink wrong class",
        )
        self.widgets = [
            self.status,
            self.notices,
            Grid(list(self.charts.values()), columns=COLUMNS, widget_id="hrda_charts"),
            self.previews.widget,
            self.comparisons.widget,
        ]
        self._stage, self._told = "", set[str]()
        self._started: tuple[float, int] | None = None  # time and iteration of the stage's first progress
        self._shown, self._pending = 0.0, ""
        self._changed: set[str] = set()
        self._stopping = False
        self._browsed: set[str] = set()  # names of the browsers that have something new
        self._late: threading.Timer | None = None
        self._lock = threading.RLock()
        self.notices.hide()

    def reset(self) -> None:
        with self._lock:
            self.curves = Curves()
            self._stopping = False
            self._told, self._changed, self._browsed = set(), set(CHARTS), set()
            self.notices.hide()
            self.previews.clear()
            self.comparisons.clear()
            self._refresh()

    def restore(self, run: RunDirectory, mode: str) -> None:
        """What a former process of this task had shown, from the run's files."""
        with self._lock:
            for here, stage in ((RunDirectory(run.baseline), BASELINE), (run, mode)):
                for line in _lines(here.metrics):
                    iteration = int(line.pop("iteration"))
                    self._changed |= self.curves.add(iteration, line, baseline=stage == BASELINE)
                for browser, folder in ((self.previews, here.previews), (self.comparisons, here.previews / COMPARED)):
                    for moment in moments_on_disk(folder, stage):
                        browser.add(moment)
            self._browsed = {"Preview", "Comparison"}
            self._refresh()

    def hear(self, event: Event) -> None:
        with self._lock:
            self._hear(event)

    def say(self, text: str) -> None:
        """Shows a sentence as the status, about once a second."""
        with self._lock:
            self._pending = text
            self._refresh_now_and_then()

    def say_stopping(self, text: str) -> None:
        """The same; iterations that are still told do not hide it."""
        with self._lock:
            self._stopping = True
            self.say(text)

    def finish(self, text: str, addresses: Mapping[str, str]) -> None:
        """The last words, and pictures from where they stay: `addresses` by the files' place in the experiment."""
        with self._lock:
            self._pending = text
            self._refresh()
            self.previews.move(addresses)
            self.comparisons.move(addresses)

    def notice(self, text: str) -> None:
        """Adds a sentence to those that stay; each once."""
        with self._lock:
            if text in self._told or len(self._told) >= MAX_NOTICES:
                return
            self._told.add(text)
            self.notices.set("<br>".join(html.escape(line) for line in sorted(self._told)), "warning")
            self.notices.show()

    def _hear(self, event: Event) -> None:
        kind, iteration = event["event"], event["iteration"]
        if kind == "Stage":
            self._stage, self._started = event["name"], None
            self._pending = f"{_capital(self._stage)} ..."
        elif kind == "Preparation":
            self._pending = f"{_capital(self._stage)}: {event['done']} of {event['total']} images"
        elif kind in ASIDE:
            self._started = None  # the time left is that of iterations
            if not self._stopping:
                self._pending = f"{ASIDE[kind]}: {event['done']} of {event['total']}"
        elif kind == "Progress":
            self._started = self._started or (event["time"], iteration)
            if not self._stopping:
                self._pending = self._progress(event)
        elif kind == "Metrics":
            self._changed |= self.curves.add(iteration, event["values"], baseline=self._stage == BASELINE)
        elif kind in ("Preview", "Comparison"):
            files = {name: preview_address(path, event["time"]) for name, path in event["pictures"].items()}
            (self.previews if kind == "Preview" else self.comparisons).add(Moment(self._stage, iteration, files))
            self._browsed.add(kind)
        elif kind == "Notice":
            self.notice(event["text"])
        elif kind in ("Finished", "Failed"):
            self._refresh()
        self._refresh_now_and_then()

    def _progress(self, event: Event) -> str:
        done, total = event["iteration"], event["total"]
        text = f"{_capital(self._stage)}: iteration {done} of {total}"
        if done == total:
            return f"{text}, evaluation and report follow"
        since, first = self._started or (event["time"], done)
        if done > first and event["time"] > since:
            left = (total - done) * (event["time"] - since) / (done - first)
            text += f", {duration(left)} left"
        return text

    def _refresh_now_and_then(self) -> None:
        wait = self._shown + REFRESH - time.monotonic()
        if wait <= 0:
            self._refresh()
        elif self._late is None:  # the next event may be long in coming
            self._late = threading.Timer(wait, self._refresh_late)
            self._late.daemon = True
            self._late.start()

    def _refresh_late(self) -> None:
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        self._shown, self._late = time.monotonic(), None
        if self.status.text != self._pending:
            self.status.text = self._pending
        for title in self._changed:
            series = [{"name": name, "data": chart_points(points)} for name, points in self.curves.series[title].items()]
            self.charts[title].set_series(series, send_changes=False)
        if self._changed:
            DataJson().send_changes()
        for kind, browser in (("Preview", self.previews), ("Comparison", self.comparisons)):
            if kind in self._browsed:
                browser.show()
        self._changed, self._browsed = set(), set()


def _chart(title: str) -> Apexchart:
    options = {
        "chart": {"type": "line", "zoom": {"enabled": False}, "animations": {"enabled": False}},
        "dataLabels": {"enabled": False},
        "stroke": {"curve": "straight", "width": 2},
        "title": {"text": title, "align": "left"},
        "grid": {"row": {"colors": ["#f3f3f3", "transparent"], "opacity": 0.5}},
        "xaxis": {"type": "numeric", "decimalsInFloat": 0, "tickAmount": 5},
        "markers": {"size": 3, "strokeWidth": 0},
        "yaxis": [{"show": True, "decimalsInFloat": DECIMALS.get(title, 3)}],
    }
    return Apexchart([], options, "line", height=260)


def chart_points(points: list[tuple[int, float]]) -> list[dict[str, float]]:
    """A lone point twice: the chart would drop a line from it to the axis."""
    return [{"x": x, "y": y} for x, y in (points * 2 if len(points) == 1 else points)]


def _lines(metrics: Path) -> Iterator[dict[str, Any]]:
    """Of metrics.jsonl, but for one that a kill cut short."""
    if metrics.is_file():
        for line in metrics.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


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
