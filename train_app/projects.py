"""Supervisely projects -> data sets: what the rest of the app needs of it.

choices.py says what is chosen; listing.py what that holds; roles.py which images are used for what; choice_checks.py what is
wrong with it; download.py, cache.py, folders.py and preparation.py bring it into folders.
"""

from train_app.cache import default_cache
from train_app.choice_checks import check_choice
from train_app.choices import DataChoice, ProjectChoice, ValidationChoice
from train_app.errors import UserError
from train_app.folders import image_id_of
from train_app.labels import ClassChoice
from train_app.listing import ListedImage, Listing, list_images
from train_app.preparation import DatasetCount, Prepared, prepare_datasets

__all__ = [
    "ClassChoice",
    "DataChoice",
    "DatasetCount",
    "ListedImage",
    "Listing",
    "Prepared",
    "ProjectChoice",
    "UserError",
    "ValidationChoice",
    "check_choice",
    "default_cache",
    "image_id_of",
    "list_images",
    "prepare_datasets",
]
