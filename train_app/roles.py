"""From the listed images to those that are used in each role, and why the others are not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from train_app.choices import ROLES, DataChoice
from train_app.labels import DRAWABLE
from train_app.listing import ListedImage, ListedObject, Listing

NO_OBJECTS = "no objects"
NO_AREA = "objects of the chosen classes, but none with an area"
NOT_CHOSEN = "no object of a chosen class"
SAME_CONTENT = "same content as a validation image"


@dataclass
class Roles:
    """images: by role, those that are used. masked: ids of the images that get a mask. skipped: images that are left out, by
    role and reason. notices: sentences about them."""

    images: dict[str, list[ListedImage]] = field(default_factory=dict)
    masked: set[int] = field(default_factory=set)
    skipped: dict[str, Counter[str]] = field(default_factory=lambda: {role: Counter() for role in ROLES})
    notices: list[str] = field(default_factory=list)


def assign_roles(listing: Listing, choice: DataChoice) -> Roles:
    """Splits off the validation share, and leaves out images that teach nothing or would teach something false.

    - An image without any object has mostly not been labelled yet: it is left out of source and validation, unless the choice
      says that it is all background. With an object of whatever class it is labelled, and what is not of a chosen class is
      background.
    - An image whose objects of chosen classes have no area (points, lines) would become all background: left out.
    - Without a background class, an image needs an object of a chosen class.
    - Of the target nothing is left out; its images without such labels stay unlabelled.
    """
    roles = Roles()
    target, validation = listing.images["target"], listing.images["validation"]
    if choice.validation.method == "share":
        labelled = [image for image in target if lack(listing.objects.get(image.id, ()), choice) is None]
        validation = share(labelled, choice.validation.percent)
        taken = {image.content for image in validation}
        left = [image for image in target if image.content not in taken]
        copies = len(target) - len(left) - len(validation)
        if copies:
            roles.skipped["target"][SAME_CONTENT] += copies
        target = left
    roles.images["target"] = target
    if choice.use_target_labels:
        roles.masked |= {image.id for image in target if lack(listing.objects.get(image.id, ()), choice) is None}
    for role, images, unlabelled in (
        ("source", listing.images["source"], choice.unlabelled_source),
        ("validation", validation, choice.validation.unlabelled),
    ):
        roles.images[role] = []
        for image in images:
            reason = lack(listing.objects.get(image.id, ()), choice)
            if reason is None or (reason == NO_OBJECTS and unlabelled == "background" and choice.classes.background):
                roles.images[role].append(image)
                roles.masked.add(image.id)
            else:
                roles.skipped[role][reason] += 1
    for role, reasons in roles.skipped.items():
        for reason, count in reasons.items():
            total = len(roles.images[role]) + sum(reasons.values())
            roles.notices.append(
                f"{role}: {count} of {total} images left out ({reason}){FIXES[reason].format(Role=role.capitalize())}"
            )
    return roles


FIXES = {
    NO_OBJECTS: '; if they show none of the classes, tick "{Role} images without any object are background"',
    NO_AREA: "; draw polygons, bitmaps, rectangles or alpha masks instead",
    NOT_CHOSEN: ", since without a background class they teach nothing",
    SAME_CONTENT: "",
}


def lack(objects: Sequence[ListedObject], choice: DataChoice) -> str | None:
    """Why an image with these objects is no labelled image. None: it is one."""
    if not objects:
        return NO_OBJECTS
    values = choice.classes.values()
    chosen = [item for item in objects if item.class_name in values]
    if chosen and not any(item.geometry in DRAWABLE for item in chosen):
        return NO_AREA
    if not chosen and not choice.classes.background:
        return NOT_CHOSEN
    return None


def share(images: Sequence[ListedImage], percent: int) -> list[ListedImage]:
    """About `percent` of the images, at least one, drawn by content: the draw of one image does not depend on the others, so
    that images which are added later move none of these; equal contents go together."""
    draws = [(int.from_bytes(hashlib.sha256(image.content.encode()).digest()[:8], "big") / 2**64, image) for image in images]
    drawn = [image for draw, image in draws if draw < percent / 100]
    if drawn or not images:
        return drawn
    least = min(draw for draw, _ in draws)
    return [image for draw, image in draws if draw == least]
