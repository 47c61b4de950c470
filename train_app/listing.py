"""Which images the chosen projects hold, and which objects those have: everything that is known before a download."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import supervisely as sly

from hrda_core.data.parallel import Stop
from train_app.choices import ROLES, DataChoice, ProjectChoice
from train_app.connection import Connection, Gone

Progress = Callable[[str, int, int], None]
RECOUNT_WAIT = 1.0  # seconds until a list is compared with the count again
FIGURE_FIELDS = ["id", "updatedAt", "createdAt", "imageId", "classId", "datasetId", "geometryType", "priority"]


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object of an image, without its geometry. version changes with every edit."""

    id: int
    class_name: str
    geometry: str
    version: str


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image. hash: sha256 of the file in base64, None where the platform keeps a link only. size: of the file, in bytes.
    dataset_path: names from the outermost dataset, "parent/child"."""

    id: int
    name: str
    hash: str | None
    size: int | None
    width: int
    height: int
    mime: str | None
    updated_at: str
    project_id: int
    project_name: str
    dataset_id: int
    dataset_path: str

    @property
    def content(self) -> str:
        """Equal for images of equal content, as far as the platform knows."""
        return self.hash or f"image {self.id} of {self.updated_at}"

    @property
    def place(self) -> str:
        """For messages: image, dataset and project."""
        return f"image {self.name!r} (id {self.id}) of dataset {self.dataset_path!r} in project {self.project_name!r}"


@dataclass
class Listing:
    """images: by role, in the order of choice, each once. objects: by image id, for the roles whose labels are used.
    problems: sentences on projects that cannot be read or used."""

    images: dict[str, list[ListedImage]] = field(default_factory=lambda: {role: [] for role in ROLES})
    objects: dict[int, tuple[ListedObject, ...]] = field(default_factory=dict)
    metas: dict[int, sly.ProjectMeta] = field(default_factory=dict)
    project_names: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def metas_of(self, projects: Iterable[ProjectChoice]) -> list[sly.ProjectMeta]:
        return [self.metas[p.project_id] for p in projects if p.project_id in self.metas]


def list_images(
    api: sly.Api,
    choice: DataChoice,
    progress: Progress | None = None,
    stop: Stop | None = None,
    connection: Connection | None = None,
) -> Listing:
    """Lists the images of every role and the objects of those whose labels are used.

    The lists are complete: their lengths are compared with the counts that the platform has of each dataset. What is wrong
    with a project or a dataset becomes one of `problems`; `check_choice` tells them with all others.

    Raises:
        UserError: the platform refuses or does not answer. Stopped: `stop()` became true.
    """
    connection = connection or Connection(api, None if progress is None else lambda text: progress(text, 0, 0), stop)
    listing = Listing()
    known: dict[int, _Project] = {}
    for role in ROLES:
        seen: set[int] = set()
        for chosen in choice.projects(role):
            if progress is not None:
                progress(f"Listing the images of the {role}", 0, 0)
            if chosen.project_id not in known:
                known[chosen.project_id] = _Project(connection, chosen.project_id, listing)
            listing.images[role] += known[chosen.project_id].images(role, chosen, seen)
    for role in ROLES:
        if role != "target" or choice.use_target_labels or choice.validation.method == "share":
            datasets = {image.dataset_id: image.project_id for image in listing.images[role]}
            for number, (dataset_id, project_id) in enumerate(datasets.items()):
                if progress is not None:
                    progress(f"Listing the objects of the {role}", number, len(datasets))
                count = sum(image.dataset_id == dataset_id for image in listing.images[role])
                listing.objects |= _objects(connection, dataset_id, count, listing.metas[project_id])
    return listing


class _Project:
    """A project's datasets and their images, each asked for once."""

    def __init__(self, connection: Connection, project_id: int, listing: Listing) -> None:
        self._connection, self._listing = connection, listing
        self._images: dict[int, list[ListedImage]] = {}
        self._datasets: dict[int, sly.DatasetInfo] = {}
        self._name, self._problem = "", ""
        info = connection.ask(f"project {project_id}", lambda api: api.project.get_info_by_id(project_id))
        if info is None:
            reasons = "does not exist, is archived, or is not open to this account"
            self._problem = f"project {project_id} {reasons}; choose another one, or restore it"
        elif (info.backup_archive or {}).get("url"):
            self._problem = f"project {info.name!r} ({project_id}) is archived; restore it in the platform, or choose another one"
        elif info.type != "images":
            self._problem = f"project {info.name!r} ({project_id}) holds {info.type}; choose a project of images"
        if self._problem or info is None:
            return
        self._name = listing.project_names[project_id] = info.name
        meta = connection.ask(f"the classes of project {info.name!r}", lambda api: api.project.get_meta(project_id))
        listing.metas[project_id] = sly.ProjectMeta.from_json(meta)
        datasets = connection.ask(
            f"the datasets of project {info.name!r}", lambda api: api.dataset.get_list(project_id, recursive=True)
        )
        self._datasets = {dataset.id: dataset for dataset in datasets}

    def images(self, role: str, choice: ProjectChoice, seen: set[int]) -> list[ListedImage]:
        """The images of the choice that are in datasets which were not `seen` yet."""
        problems = self._listing.problems
        if self._problem:
            problems.append(f"{role}: {self._problem}")
            return []
        project = f"project {self._name!r} ({choice.project_id})"
        missing = [dataset_id for dataset_id in choice.dataset_ids if dataset_id not in self._datasets]
        for dataset_id in missing:
            names = ", ".join(f"{self._path(d)!r} ({d})" for d in list(self._datasets)[:5])
            problems.append(f"{role}: dataset {dataset_id} is not in {project}, which has {names or 'none'}; choose one of those")
        wanted = [d for d in self._datasets if not choice.dataset_ids or self._ancestors(d) & set(choice.dataset_ids)]
        images = [image for d in wanted if d not in seen for image in self._listed(d)]
        if not missing and not any(self._listed(d) for d in wanted):
            problems.append(f"{role}: {project} has no images in the chosen datasets; choose others")
        seen.update(wanted)
        return images

    def _listed(self, dataset_id: int) -> list[ListedImage]:
        if dataset_id not in self._images:
            self._images[dataset_id] = self._complete_list(dataset_id)
        return self._images[dataset_id]

    def _complete_list(self, dataset_id: int) -> list[ListedImage]:
        """The dataset's images, once their number is the one that the platform counts."""
        dataset, path = self._datasets[dataset_id], self._path(dataset_id)
        what = f"the images of dataset {path!r} in project {self._name!r}"
        counts: tuple[int, int | None] = (0, None)
        for attempt in range(3):  # somebody may be uploading
            if attempt:
                self._connection.pause(RECOUNT_WAIT)
            try:
                infos = self._connection.ask(what, lambda api: api.image.get_list(dataset_id), _bytes(dataset.images_count))
                if attempt:
                    dataset = self._connection.ask(f"dataset {path!r}", lambda api: api.dataset.get_info_by_id(dataset_id, True))
            except Gone:
                self._listing.problems.append(f"{what} are gone; reload the list of datasets and choose again")
                return []
            counts = len(infos), dataset.images_count
            # the documentation does not say whether the count includes the datasets inside
            if counts[1] is None or counts[1] in (counts[0], counts[0] + self._images_inside(dataset_id, counts)):
                return [self._image(info, path) for info in infos]
        self._listing.problems.append(
            f"dataset {path!r} of project {self._name!r}: the platform counts {counts[1]} images and lists {counts[0]}; "
            f"wait until uploads have ended, and start again"
        )
        return []

    def _images_inside(self, dataset_id: int, counts: tuple[int, int | None]) -> int:
        if counts[0] == counts[1]:
            return 0
        return sum(len(self._listed(d)) for d in self._datasets if d != dataset_id and dataset_id in self._ancestors(d))

    def _image(self, info: sly.ImageInfo, path: str) -> ListedImage:
        return ListedImage(
            id=info.id,
            name=info.name,
            hash=info.hash or None,
            size=info.size,
            width=int(info.width or 0),
            height=int(info.height or 0),
            mime=info.mime,
            updated_at=str(info.updated_at),
            project_id=self._datasets[info.dataset_id].project_id,
            project_name=self._name,
            dataset_id=info.dataset_id,
            dataset_path=path,
        )

    def _path(self, dataset_id: int) -> str:
        dataset = self._datasets[dataset_id]
        above = dataset.parent_id if dataset.parent_id in self._datasets else None
        return dataset.name if above is None else f"{self._path(above)}/{dataset.name}"

    def _ancestors(self, dataset_id: int) -> set[int]:
        """The dataset and all that it lies in."""
        above = self._datasets[dataset_id].parent_id
        return {dataset_id} | (self._ancestors(above) if above in self._datasets else set())


def _bytes(images: int | None) -> int:
    """About what a list takes, so that a long one gets its time."""
    return 5000 * (images or 1000)


def _objects(connection: Connection, dataset_id: int, images: int, meta: sly.ProjectMeta) -> dict[int, tuple[ListedObject, ...]]:
    """The objects of a dataset by image. Paged by the general method, since `figure.download` does not notice missing pages."""
    question = {"datasetId": dataset_id, "fields": FIGURE_FIELDS, "filter": []}
    figures: Sequence[sly.FigureInfo] = connection.ask(
        f"objects of dataset {dataset_id}",
        lambda api: api.image.figure.get_list_all_pages("figures.list", dict(question)),
        _bytes(images),
    )
    names = {c.sly_id: c.name for c in meta.obj_classes}
    found: dict[int, list[ListedObject]] = defaultdict(list)
    for figure in figures:
        name = names.get(figure.class_id, f"class {figure.class_id}")
        version = f"{figure.updated_at or figure.created_at} {figure.priority}"
        found[figure.entity_id].append(ListedObject(figure.id, name, str(figure.geometry_type), version))
    return {image: tuple(sorted(objects, key=lambda item: item.id)) for image, objects in found.items()}
