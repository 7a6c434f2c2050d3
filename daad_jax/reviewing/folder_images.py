"""Lists the images of the folder to review, with an id and the label that the folders' names give."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from daad_jax.config import DataConfig
from daad_jax.data.groups import open_grouping
from daad_jax.data.image_files import ImageFile, list_pages
from daad_jax.data.layouts import IS_MASK, Assignment, assign_roles
from daad_jax.data.name_patterns import Patterns
from daad_jax.data.samples import GOOD
from daad_jax.data.walk import walk
from daad_jax.errors import UserError

LABEL_GOOD, LABEL_DEFECT, NO_LABEL = "good", "defect", ""
MASK_REASON = "mask"
ID_DIGITS = 16


class ReviewImage(NamedTuple):
    """An image of the folder.

    Attributes:
        id: names the image in addresses and in `labels.csv`; depends on `name` alone.
        name: the path below the folder, with "/". A page has its number at the end: "stack.tif#3".
        file: where the image is.
        stamp: a text that changes when somebody writes to the file.
        label: the label by the folders' names: `LABEL_GOOD`, `LABEL_DEFECT` or `NO_LABEL`.
    """

    id: str
    name: str
    file: ImageFile
    stamp: str
    label: str


class FolderImages(NamedTuple):
    """The images of a folder, and how many files are left out for each reason."""

    images: list[ReviewImage]
    left_out: Counter[str]


def list_images(folder: Path, data: DataConfig, leave_out: Path) -> FolderImages:
    """Lists the images of a folder and of its sub-folders. Masks are left out.

    Args:
        folder: the folder.
        data: says which names of folders mean good, anomalous and masks.
        leave_out: the folder to which the review writes; its files are passed over.

    Raises:
        UserError: the folder is missing, cannot be listed, or has no images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: this folder does not exist; give the folder of the images to review")
    files, left_out = [], Counter[str]()
    for file in walk(folder, leave_out):
        if file.reason:
            left_out[file.reason] += 1
        else:
            files.append(file)
    roles = _read_roles([file.name for file in files], data)
    has_both = {GOOD} < {role.kind for role in roles if role.kind}
    images = []
    for file, role in zip(files, roles):
        if role.role == IS_MASK:
            left_out[MASK_REASON] += 1
            continue
        label = NO_LABEL
        if has_both and role.kind:
            label = LABEL_GOOD if role.kind == GOOD else LABEL_DEFECT
        stamp = "-".join(map(str, file.stamp))
        for page in list_pages(file.path):
            name = f"{file.name}#{page.page + 1}" if page.pages > 1 else file.name
            images.append(ReviewImage(make_id(name), name, page, stamp, label))
    if not images:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        raise UserError(f"{folder}: this folder has no images{f' ({reasons})' if reasons else ''}")
    return FolderImages(images, left_out)


def make_id(name: str) -> str:
    """Returns the id of an image. It begins with a letter, so that spreadsheets do not read a number."""
    return "i" + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:ID_DIGITS]


def number_groups(images: list[ReviewImage], data: DataConfig) -> list[int] | None:
    """The number of the group of each image, as `calibrate` counts them; None if each image is for itself.

    Raises:
        UserError: see `groups.open_grouping`.
    """
    grouping = open_grouping(data)
    return grouping.group([image.name for image in images]).numbers.tolist() if grouping else None


def _read_roles(names: list[str], data: DataConfig) -> list[Assignment]:
    """Returns the role of each file, as far as the names of the folders say the role."""
    of_run = Patterns.parse(data.normal, data.anomalous, data.masks)
    for patterns in dict.fromkeys([of_run, Patterns()]):
        try:
            return assign_roles(names, patterns, "")
        except UserError:  # no name here matches the patterns
            continue
    return [Assignment("")] * len(names)
