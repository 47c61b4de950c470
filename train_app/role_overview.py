"""How many images a role has, and what some of them look like; asked of the platform beside the page, never before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import supervisely as sly
from supervisely.app.widgets import Container, Text, Widget

from train_app.choices import ProjectChoice
from train_app.gallery import gallery

PICTURES = 4
WIDTH, HEIGHT = 130, 96
MOST_LISTED = 20_000  # images of chosen datasets whose labels are counted one by one


@dataclass(frozen=True)
class Overview:
    """labelled: images with objects, None where counting them would take long. pictures: (name, address) of a few images."""

    images: int
    labelled: int | None
    pictures: tuple[tuple[str, str], ...]

    def sentence(self) -> str:
        text = f"{self.images} image{'' if self.images == 1 else 's'}"
        return text if self.labelled is None else f"{self.labelled} of {text} with objects"


def look_at(api: sly.Api, projects: Sequence[ProjectChoice]) -> Overview:
    """Asks the platform; whatever is wrong with the choice raises what the SDK raises, and is told in words at Start."""
    images, labelled, datasets = 0, 0, list[sly.DatasetInfo]()
    countable = True
    for project in projects:
        chosen = chosen_datasets(api, project)
        datasets += chosen
        count = sum(dataset.images_count or 0 for dataset in chosen)
        images += count
        if not project.dataset_ids:
            labelled += int(api.project.get_stats(project.project_id)["images"]["total"]["imagesMarked"])
        elif count <= MOST_LISTED:
            labelled += sum(bool(info.labels_count) for dataset in chosen for info in api.image.get_list(dataset.id))
        else:
            countable = False
    return Overview(images, labelled if countable else None, _pictures(api, [d for d in datasets if d.images_count]))


def chosen_datasets(api: sly.Api, project: ProjectChoice) -> list[sly.DatasetInfo]:
    """All of the project, or the chosen ones with those inside them."""
    datasets = api.dataset.get_list(project.project_id, recursive=True)
    wanted = set(project.dataset_ids)
    parents = {dataset.id: dataset.parent_id for dataset in datasets}

    def is_chosen(dataset_id: int | None) -> bool:
        return dataset_id is not None and (dataset_id in wanted or is_chosen(parents.get(dataset_id)))

    return [dataset for dataset in datasets if not wanted or is_chosen(dataset.id)]


def _pictures(api: sly.Api, datasets: Sequence[sly.DatasetInfo]) -> tuple[tuple[str, str], ...]:
    """A few of every dataset, of at most so many datasets."""
    found: list[tuple[str, str]] = []
    for i, dataset in enumerate(datasets[:PICTURES]):
        some = -(-(PICTURES - len(found)) // (min(len(datasets), PICTURES) - i))
        infos = api.image.get_list(dataset.id, limit=some)[:some]
        found += [(info.name, api.image.preview_url(info.full_storage_url, height=2 * HEIGHT)) for info in infos]
    return tuple(found)


class RoleOverview:
    """A sentence and thumbnails under the choice of a role. `seen` hears every new overview."""

    def __init__(self, api: sly.Api, name: str) -> None:
        self._api = api
        self._asked = 0
        self._lock = threading.Lock()
        self.seen: Callable[[Overview | None], None] = lambda overview: None
        self.overview: Overview | None = None
        self.text = Text("", widget_id=f"hrda_{name}_counts")
        self.pictures = Text("", widget_id=f"hrda_{name}_thumbnails")
        self.widget: Widget = Container([self.text, self.pictures])
        self.thread: threading.Thread | None = None

    def update(self, projects: Sequence[ProjectChoice]) -> None:
        """Returns at once; the answer to the latest question is shown when it is there."""
        with self._lock:
            self._asked += 1
            number = self._asked
        if not projects:
            self._show(number, None, "")
            return
        self._show(number, None, "Counting images ...")
        self.thread = threading.Thread(target=self._ask, args=(number, tuple(projects)), daemon=True)
        self.thread.start()

    def _ask(self, number: int, projects: Sequence[ProjectChoice]) -> None:
        try:
            overview = look_at(self._api, projects)
        except Exception as error:  # the check at Start says what is wrong, and what helps
            sly.logger.debug("no overview of %s: %r", projects, error)
            self._show(number, None, "The images cannot be listed at the moment")
        else:
            self._show(number, overview, overview.sentence())

    def _show(self, number: int, overview: Overview | None, sentence: str) -> None:
        with self._lock:
            if number != self._asked:  # another choice by now
                return
            self.overview = overview
            self.text.text = sentence
            self.pictures.text = gallery(overview.pictures, WIDTH, HEIGHT) if overview is not None else ""
        self.seen(overview)
