"""Reads labelled images that do not belong to a run, to test the run with them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from daad_jax.config import Config, DataConfig
from daad_jax.data import account, cache, protocol
from daad_jax.data.decoded_images import (
    describe_images,
    make_account,
    make_split,
    note_clipped,
    note_grey,
    note_unreadable,
)
from daad_jax.data.folder_source import open_folder
from daad_jax.data.folder_words import NORMAL, read_folder_name
from daad_jax.data.history import ContentIndex, History
from daad_jax.data.layouts import has_training_part
from daad_jax.data.protocol import Roles
from daad_jax.data.samples import TEST, Account, Source, Split
from daad_jax.data.tfds_source import tfds_classes
from daad_jax.errors import UserError

# Why an image of another test set is not tested. The texts follow a count.
NOT_FOR_TESTING = "for training, beside images for testing"
HAS_TRAINED, WAS_HELD_OUT = "have trained this run", "were held out to set its threshold"


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images that do not belong to a run's own data.

    Attributes:
        test: the images to test.
        account: the role of every file, and why files are not used.
        notes: sentences for the user.
    """

    test: Split
    account: Account
    notes: list[str]


def load_test(
    config: Config, folder: Path, history: History | None = None, check: bool = False
) -> LabelledImages:
    """Reads the labelled images of any folder, to test a run with them.

    If the folder has a training part, only its test part is tested. Otherwise all its images are tested.
    Images that have trained the run or were held out are left out, because they would make the figures look
    better than they are.

    Args:
        config: the run's configuration: protocol, size of the images, and what to do with unreadable ones.
        folder: a folder in a layout of docs/data.md. For a run with classes, its sub-folders may also be
            named after the classes.
        history: the history of the run; None if it is not known.
        check: whether all files are read again, see `cache.load_decoded`.

    Raises:
        UserError: see `open_folder` and `cache.load_decoded`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: this folder does not exist; give a folder of labelled images")
    # Read all images of the folder.
    data = _name_classes(folder, config.data)
    decoded = cache.load_decoded(_open_labelled(folder, data), data, check)
    labels = protocol.labels(decoded.kinds, (), replace(data, protocol="inspection"))
    images = describe_images(decoded, np.arange(len(labels)))
    notes = note_unreadable(decoded) + note_grey(decoded, data) + note_clipped(decoded, data)
    unreadable = {index for index, _ in decoded.skipped}
    # Leave out images for training, and images that the run has used already.
    reasons: dict[int, str] = {}
    if has_training_part([file.name for file in decoded.files]):
        reasons = {i: NOT_FOR_TESTING for i, part in enumerate(decoded.parts) if part != TEST}
    else:  # the good images are for testing, too
        is_good = (account.TRAINING, account.HELD_OUT)
        files = [replace(f, role=account.TEST_GOOD) if f.role in is_good else f for f in decoded.files]
        decoded = replace(decoded, files=files)
    for past, what in (
        (history.trained if history else [], HAS_TRAINED),
        (history.held_out if history else [], WAS_HELD_OUT),
    ):
        index = ContentIndex(past)
        known = {i for i, image in enumerate(images) if image in index} - unreadable - set(reasons)
        if known:
            notes.append(
                f"{len(known)} of the {len(images)} images of {folder} {what}, so they are not tested: they "
                "would make the figures look better than they are."
            )
        reasons |= dict.fromkeys(known, what)
    # Apply the limit, and make the split and the account.
    kept = np.array([i for i in range(len(images)) if i not in unreadable and i not in reasons], int)
    chosen = protocol.limit_per_label(labels[kept], config.data.limit_test, config.seed)
    if len(chosen) < len(kept):
        notes.append(
            f"{len(kept) - len(chosen)} images of {folder} are not tested, because this run has "
            f"config.data.limit_test = {config.data.limit_test} for each label."
        )
    kept = kept[chosen]
    nothing = np.zeros(0, int)
    tested = make_account(decoded, labels, Roles(nothing, nothing, kept, nothing), reasons)
    return LabelledImages(make_split(decoded, labels, kept, None, with_masks=True), tested, notes)


def _open_labelled(folder: Path, data: DataConfig) -> Source:
    """Opens a labelled folder by the folder names in the run's configuration, or by the usual names."""
    try:
        return open_folder(folder, data)
    except UserError:
        if not (data.normal or data.anomalous or data.masks):
            raise
    return open_folder(folder, replace(data, normal="", anomalous="", masks=""))


def _name_classes(folder: Path, data: DataConfig) -> DataConfig:
    """For a run with classes, says which sub-folders named after classes are normal."""
    if data.source != "tfds" or data.protocol == "inspection":
        return data
    classes = tfds_classes(data)
    names = {path.name for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_dir()}
    if any(read_folder_name(name).role == NORMAL for name in names):
        return data
    named = sorted(names & set(classes))
    is_anomalous = protocol.labels(named, classes, data)
    groups = [",".join(n for n, label in zip(named, is_anomalous) if label == wanted) for wanted in (0, 1)]
    return replace(data, normal=groups[0], anomalous=groups[1])
