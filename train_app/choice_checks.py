"""Everything that can be wrong with a choice of projects and classes, found before a download and told together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import combinations

import supervisely as sly

from hrda_core.data.classes import BACKGROUND_NAMES, IGNORE
from train_app.choices import ROLES, DataChoice
from train_app.errors import UserError
from train_app.labels import DRAWABLE
from train_app.listing import ListedImage, Listing
from train_app.roles import Roles, assign_roles

SHOWN = 3  # examples of each kind
READABLE = ("image/jpeg", "image/jpg", "image/png", "image/tiff", "image/webp", "image/bmp", "image/x-ms-bmp", "image/mpo")


def check_choice(listing: Listing, choice: DataChoice) -> Roles:
    """The images of every role, with notices about what deserves a look but hinders nothing.

    Raises:
        UserError: all problems, one a line, each naming the field, the value and the fix.
    """
    problems = [*_fields(choice), *listing.problems]
    roles = assign_roles(listing, choice)
    problems += _repeated_datasets(listing)
    problems += _repeated_content(listing)
    problems += _class_problems(listing, choice)
    problems += _formats(roles)
    if not problems:  # otherwise these would only follow from what is said already
        problems += _empty_roles(listing, choice, roles)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    roles.notices += _notices(listing, choice, roles)
    return roles


def _fields(choice: DataChoice) -> Iterable[str]:
    for role, projects in (("source", choice.source), ("target", choice.target)):
        if not projects:
            yield f"{role}: no project is chosen; choose at least one"
    validation = choice.validation
    if validation.method not in ("none", "project", "share"):
        yield f"validation: method {validation.method!r} is unknown; use 'none', 'project' or 'share'"
    if validation.method == "project" and not validation.projects:
        yield "validation: no project is chosen; choose one, or validate with a share of the target or with none"
    if validation.method == "share" and not 1 <= validation.percent <= 90:
        yield f"validation: a share of {validation.percent} percent is not possible; use 1 to 90"
    for name, value in (("unlabelled_source", choice.unlabelled_source), ("validation.unlabelled", validation.unlabelled)):
        if value not in ("skip", "background"):
            yield f"{name}: {value!r} is unknown; use 'skip' or 'background'"
        if value == "background" and not choice.classes.background:
            yield f"{name}: images without objects cannot be background without a background class; use 'skip'"


def _repeated_datasets(listing: Listing) -> Iterable[str]:
    datasets = {role: {image.dataset_id: image for image in listing.images[role]} for role in ROLES}
    for one, other in combinations(ROLES, 2):
        for dataset_id in datasets[one].keys() & datasets[other].keys():
            image = datasets[one][dataset_id]
            yield (
                f"{one} and {other}: dataset {image.dataset_path!r} ({dataset_id}) of project {image.project_name!r} is in both; "
                f"remove it from one of them"
            )


def _repeated_content(listing: Listing) -> Iterable[str]:
    """The same file under another name or in another project. Repetition within one role is harmless."""
    by_content: dict[str, dict[str, ListedImage]] = {
        role: {image.content: image for image in listing.images[role]} for role in ROLES
    }
    for one, other in combinations(ROLES, 2):
        common = [content for content in by_content[one] if content in by_content[other]]
        pairs = [(by_content[one][content], by_content[other][content]) for content in common]
        pairs = [(a, b) for a, b in pairs if a.dataset_id != b.dataset_id]  # else said of the dataset
        if pairs:
            shown = "; ".join(f"{a.place} equals {b.place}" for a, b in pairs[:SHOWN])
            more = f"; and {len(pairs) - SHOWN} more" if len(pairs) > SHOWN else ""
            yield (
                f"{one} and {other}: the same content is in both, {len(pairs)} times: {shown}{more}; remove it from one of them"
            )


def _class_problems(listing: Listing, choice: DataChoice) -> Iterable[str]:
    """Chosen classes must be in the source; those that join others or are ignored may be in any project."""
    source = _shapes(listing.metas_of(choice.source))
    everywhere = _shapes(listing.metas.values())
    if not listing.metas_of(choice.source):
        return
    for name in choice.classes.values():
        if name.lower() in BACKGROUND_NAMES and choice.classes.background:
            continue
        chosen = name in choice.classes.names
        shapes, where = (source, "the source projects") if chosen else (everywhere, "the chosen projects")
        if name not in shapes:
            known = sorted(shapes)
            same = [other for other in known if other.lower() == name.lower()] or get_close_matches(name, known, 1)
            hint = f"did you mean {same[0]!r}?" if same else f"they have {', '.join(map(repr, known)) or 'no classes'}."
            yield f"classes: {name!r} is in none of {where}; {hint} Choose a class that they have"
        elif not shapes[name] & {*DRAWABLE, "any"}:
            yield (
                f"classes: {name!r} has the shape {', '.join(sorted(shapes[name]))} only, which covers no pixels; "
                f"choose a class with polygons, bitmaps, rectangles or alpha masks, or convert it in the platform"
            )


def _shapes(metas: Iterable[sly.ProjectMeta]) -> dict[str, set[str]]:
    """Shapes of the classes of all these projects, by name."""
    shapes: dict[str, set[str]] = defaultdict(set)
    for meta in metas:
        for item in meta.obj_classes:
            shapes[item.name].add(item.geometry_type.geometry_name())
    return dict(shapes)


def _formats(roles: Roles) -> Iterable[str]:
    images = [image for role in ROLES for image in roles.images[role]]
    unknown = [image for image in images if image.id in roles.masked and not (image.width and image.height)]
    if unknown:
        yield (
            f"{len(unknown)} of {len(images)} images have no size on the platform, among them {unknown[0].place}; "
            f"check that their links can be reached, or upload the images themselves"
        )
    strange = [image for image in images if image.mime and image.mime.lower() not in READABLE]
    if strange:
        kinds = ", ".join(f"{mime} ({count})" for mime, count in Counter(str(image.mime) for image in strange).items())
        yield (
            f"{len(strange)} of {len(images)} images are of kinds that cannot be read: {kinds}, among them {strange[0].place}; "
            f"convert them to JPEG, PNG, TIFF, WebP or BMP, or remove them"
        )


def _empty_roles(listing: Listing, choice: DataChoice, roles: Roles) -> Iterable[str]:
    wanted = ["source", "target", *(["validation"] if choice.validation.method != "none" else [])]
    for role in (role for role in wanted if not roles.images[role]):
        if role == "validation" and choice.validation.method == "share":
            yield (
                f"validation: none of the {len(listing.images['target'])} target images is labelled with the chosen classes, so "
                f"there is no share to take; label some, choose a validation project, or validate with none"
            )
            continue
        if role == "target":
            yield "target: the validation share takes all target images; use a smaller share or more target images"
            continue
        reasons = "; ".join(f"{count} with {reason}" for reason, count in roles.skipped[role].items())
        count = len(listing.images[role])
        yield f"{role}: none of the {count} images can be used ({reasons}); label some, or choose other datasets"
    counts = _object_counts(listing, choice, roles.images["source"])
    foreground = _foreground(choice)
    if roles.images["source"] and not any(counts[name] for name in foreground):
        yield f"classes: the source has no object of {', '.join(map(repr, foreground))}; choose classes that are labelled there"


def _notices(listing: Listing, choice: DataChoice, roles: Roles) -> Iterable[str]:
    target = roles.images["target"]
    if choice.use_target_labels and not any(image.id in roles.masked for image in target):
        yield f"target: its labels are to be used, but none of the {len(target)} images has any"
    counts = _object_counts(listing, choice, roles.images["source"])
    for name in choice.classes.names:
        joined = [name, *(other for other, into in choice.classes.merged if into == name)]
        if name in _foreground(choice) and not any(counts[other] for other in joined):
            yield f"classes: {name!r} has no object in the source, so that it cannot be learned; label some, or do not choose it"
    for name, other in _close_names(listing, choice):
        yield f"classes: {name!r} is chosen, {other!r} is not and counts as absent; rename one of them if they are the same"


def _foreground(choice: DataChoice) -> list[str]:
    """Classes that are to be found, and those that join them."""
    background = 0 if choice.classes.background else None
    return [name for name, index in choice.classes.values().items() if index not in (background, IGNORE)]


def _object_counts(listing: Listing, choice: DataChoice, images: Sequence[ListedImage]) -> Counter[str]:
    objects = (item for image in images for item in listing.objects.get(image.id, ()))
    return Counter(item.class_name for item in objects if item.geometry in DRAWABLE)


def _close_names(listing: Listing, choice: DataChoice) -> Iterable[tuple[str, str]]:
    """Classes that differ from a chosen one in capitals only."""
    values = choice.classes.values()
    names = {item.name for meta in listing.metas.values() for item in meta.obj_classes}
    for name in values:
        for other in sorted(names - set(values)):
            if other.lower() == name.lower():
                yield name, other
