"""Reads good images that a run has not seen, to calibrate the run with them."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from daad_jax.buckets import make_absolute
from daad_jax.config import Config, DataConfig
from daad_jax.data import account, cache, groups, protocol
from daad_jax.data.cache import Decoded
from daad_jax.data.decoded_images import describe_images, make_account, make_split, note_clipped
from daad_jax.data.deep_pixels import find_pixel_type
from daad_jax.data.folder_source import open_folder
from daad_jax.data.history import ContentIndex, History
from daad_jax.data.image_files import ImageFile, digest_of_file
from daad_jax.data.joined_splits import join_splits
from daad_jax.data.protocol import Roles
from daad_jax.data.samples import (
    GOOD,
    TRAIN,
    AccountRow,
    FileRecord,
    Listing,
    NormalImage,
    Sample,
    Source,
    Split,
)
from daad_jax.errors import UserError

# Why an image of a folder does not calibrate. The texts follow a count.
UNREADABLE, NOT_GOOD = "cannot be read", "are in folders of anomalous images"
HAS_TRAINED = "have trained this run, so their scores are too low"
WAS_HELD_OUT = "were held out by the training (--with_held_out takes them all)"
IS_COPY = "are copies of others"
EXAMPLES = 3


@dataclass(frozen=True)
class GoodImages:
    """Good images that have not trained.

    Attributes:
        split: the images.
        images: the facts that a run remembers of each image, in the same order.
        left_out: the names of the unused images for each reason.
        rows: the account.
        notes: sentences for the user.
    """

    split: Split
    images: list[NormalImage]
    left_out: dict[str, list[str]]
    rows: list[AccountRow]
    notes: list[str]


def load_good(
    config: Config,
    folders: Sequence[Path],
    history: History | None,
    held_out: Split | None = None,
    check: bool = False,
) -> GoodImages:
    """Reads the good images of some folders, as the model gets them.

    If a folder also has anomalous images, only its good images are used. Three kinds of images are left out:
    images that have trained the run (their scores would make the threshold too low), copies, and images that
    the training held out.

    Args:
        config: the run's configuration: size of the images, range and groups.
        folders: folders, each in a layout of docs/data.md.
        history: the history of the run; None if it is not known.
        held_out: images that the training held out, to use them as well; None: use only new images.
        check: whether all files are read again, see `cache.load_decoded`.

    Returns:
        The good images. `split` begins with the images of `held_out`; `images` lists only the new ones.

    Raises:
        UserError: see `open_folder` and `cache.load_decoded`; or no image is left.
    """
    data = replace(config.data, on_bad_image="skip")
    return _gather(config, [(each, _open(each, data)) for each in folders], history, held_out, check)


def load_chosen(
    config: Config, folder: Path, chosen: Sequence[ImageFile], history: History | None
) -> GoodImages:
    """Reads images that a person has chosen as good, one by one, as the model gets them; see `load_good`.

    Args:
        config: the configuration of the run.
        folder: the files of the images are below it.
        chosen: the images. What the names of their folders say does not count.
        history: the history of the run; None if it is not known.

    Raises:
        UserError: see `load_good`.
    """
    return _gather(config, [(folder, _choose(folder, chosen, config.data))], history, None, False)


def _choose(folder: Path, chosen: Sequence[ImageFile], data: DataConfig) -> Source:
    """Makes a source of chosen images of a folder. All of them are good."""

    def name_of(image: ImageFile) -> str:
        return f"{image.path.relative_to(folder).as_posix()}{f'#{image.page + 1}' * (image.pages > 1)}"

    def read() -> Listing:
        samples = [
            Sample(
                name=name_of(image),
                part=TRAIN,
                kind=GOOD,
                load=partial(image.load, data.max_pixels),
                file=image.path.relative_to(folder).as_posix(),
                pixel_type=partial(find_pixel_type, image.path, image.page),
            )
            for image in chosen
        ]
        pages = Counter(sample.file for sample in samples)
        return Listing(samples, [FileRecord(name, account.TRAINING, n) for name, n in pages.items()])

    digest = hashlib.sha256()
    for image in chosen:
        sha256 = ""
        with suppress(UserError):  # reading the image reports the error
            sha256 = digest_of_file(image.path)
        digest.update(repr((name_of(image), sha256)).encode("utf-8", "surrogateescape"))
    return Source(f"chosen {make_absolute(folder)} {digest.hexdigest()}", read, folder)


def _gather(
    config: Config,
    sources: Sequence[tuple[Path, Source]],
    history: History | None,
    held_out: Split | None,
    check: bool,
) -> GoodImages:
    """Does the work of `load_good` for open sources. Each source comes with its folder."""
    grouping = groups.open_grouping(config.data)
    data = replace(config.data, on_bad_image="skip")
    parts: list[Split] = [held_out] if held_out else []
    images: list[NormalImage] = []
    left_out: dict[str, list[str]] = {}
    rows: list[AccountRow] = []
    notes: list[str] = []
    keys = list(held_out.names) if held_out else []
    # Read folder after folder, and leave out images that must not calibrate.
    for folder, source in sources:
        decoded = cache.load_decoded(source, data, check)
        reasons = _find_reasons(decoded, history, images)
        for index, reason in reasons.items():
            left_out.setdefault(reason, []).append(str(folder / decoded.names[index]))
        kept = np.array([i for i in range(len(decoded.names)) if i not in reasons], int)
        split = make_split(decoded, np.zeros(len(decoded.names), np.int8), kept, None, with_masks=False)
        names = [str(folder / name) for name in split.names]
        # Two folders may have images of one part, so a pattern must see names without the folder.
        keys += names if data.group == groups.FOLDER else split.names
        parts.append(replace(split, names=names))
        described = describe_images(decoded, kept)
        images += [replace(image, name=name) for image, name in zip(described, names)]
        notes += note_clipped(decoded, data)
        rows += _account_for(decoded, kept, reasons, folder)
    if not images:
        raise UserError(
            f"{', '.join(str(folder) for folder, _ in sources)}: no image is left to calibrate with: "
            f"{describe_left_out(left_out)}; give other good images"
        )
    # Group the images of all folders together.
    numbers = None
    if grouping:
        found = grouping.group(keys)
        numbers = found.numbers
        notes += _note_groups(found, keys, data.group)
    return GoodImages(join_splits(parts, numbers), images, left_out, rows, notes)


def describe_left_out(left_out: dict[str, list[str]]) -> str:
    """Says how many images are left out and why, with some of their names."""
    reasons = []
    for reason, names in left_out.items():
        more = f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else ""
        reasons.append(f"{len(names)} {reason} ({', '.join(names[:EXAMPLES])}{more})")
    return "; ".join(reasons)


def _open(folder: Path, data: DataConfig) -> Source:
    """Opens a folder by the folder names in the run's configuration, or by the usual names."""
    if not folder.is_dir():
        raise UserError(f"{folder}: this folder does not exist; give folders of good images")
    plain = replace(data, normal="", anomalous="", masks="")
    if data != plain:
        with suppress(UserError):
            return open_folder(folder, data)
    try:
        return open_folder(folder, plain)
    except UserError as error:
        raise UserError(f"{error}; or give each folder of good images itself, one after the other") from error


def _find_reasons(decoded: Decoded, history: History | None, earlier: list[NormalImage]) -> dict[int, str]:
    """Finds the images of a folder that must not calibrate: their indices, and the reason for each.

    `earlier` are images of other folders that do calibrate.
    """
    images = describe_images(decoded, np.arange(len(decoded.names)))
    is_anomalous = protocol.labels(decoded.kinds, (), DataConfig(protocol="inspection"))
    trained = ContentIndex(history.trained if history else [])
    held_out = ContentIndex(history.held_out if history else [])
    unreadable = {index for index, _ in decoded.skipped}
    seen_files = {image.sha256 for image in earlier} - {""}
    seen_pixels = {image.checksum for image in earlier}
    reasons: dict[int, str] = {}
    for i, image in enumerate(images):
        if i in unreadable:
            reasons[i] = UNREADABLE
        elif is_anomalous[i]:
            reasons[i] = NOT_GOOD
        elif image in trained:
            reasons[i] = HAS_TRAINED
        elif image in held_out:
            reasons[i] = WAS_HELD_OUT
        elif image.sha256 in seen_files or image.checksum in seen_pixels:
            reasons[i] = IS_COPY
        else:
            seen_files |= {image.sha256} - {""}
            seen_pixels.add(image.checksum)
    return reasons


def _account_for(
    decoded: Decoded, kept: np.ndarray, reasons: dict[int, str], folder: Path
) -> list[AccountRow]:
    """Makes the account of a folder, in which every good image counts as held out."""
    files = [
        replace(file, role=account.HELD_OUT) if file.role in (account.TRAINING, account.TEST_GOOD) else file
        for file in decoded.files
    ]
    nothing, labels = np.zeros(0, int), np.zeros(len(decoded.names), np.int8)
    other = {index: reason for index, reason in reasons.items() if reason != UNREADABLE}
    found = make_account(replace(decoded, files=files), labels, Roles(nothing, kept, nothing, kept), other)
    return [replace(row, folder=str(folder / row.folder)) for row in found.rows]


def _note_groups(found: groups.Groups, names: list[str], setting: str) -> list[str]:
    """Makes a sentence about images without a group. Raises UserError if no image has a group."""
    alone = np.flatnonzero(~found.is_found)
    if len(alone) == len(names):
        raise UserError(
            f"config.data.group = {setting!r}: gives a group to none of these images, such as {names[0]}; "
            "name these files and folders in the same way as the training images"
        )
    if not len(alone):
        return []
    return [
        f"config.data.group = {setting!r}: gives no group to {len(alone)} of these images, such as "
        f"{names[alone[0]]}, so each of them counts as a group of its own."
    ]
