"""Makes splits, records, the account and notes for the user from decoded images."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from daad_jax.config import DataConfig
from daad_jax.data import account, pixel_range
from daad_jax.data.cache import Decoded
from daad_jax.data.protocol import Roles
from daad_jax.data.samples import Account, NormalImage, Rows, Split

MAX_SHRINKING = 3  # a note says so if the shorter sides of images shrink by more than this factor
MAX_REASONS_IN_NOTE = 5  # a note gives reasons for this many unreadable images, and counts the others


def make_split(
    decoded: Decoded, labels: np.ndarray, indices: np.ndarray, groups: np.ndarray | None, with_masks: bool
) -> Split:
    """Makes a split of the images at `indices`. `labels` and `groups` are about all images, `[N]`."""
    rows = decoded.tiling.rows_of(indices) if decoded.tiling else indices
    return Split(
        images=Rows(decoded.images, rows),
        labels=labels[indices],
        kinds=[decoded.kinds[i] for i in indices],
        names=[decoded.names[i] for i in indices],
        masks=np.asarray(decoded.masks[rows]) if with_masks and decoded.masks is not None else None,
        groups=None if groups is None else groups[indices],
        tiling=decoded.tiling.take(indices) if decoded.tiling else None,
    )


def describe_images(decoded: Decoded, indices: np.ndarray) -> list[NormalImage]:
    """Returns the facts that a run remembers about the images at `indices`, without roles."""
    sha256_of = {file.name: file.sha256 for file in decoded.files}

    def find_sha256(name: str) -> str:
        if name in sha256_of:
            return sha256_of[name]
        file, mark, page = name.rpartition("#")  # a page of a file
        return f"{sha256_of[file]}{mark}{page}" if sha256_of.get(file) else ""

    names, checksums = decoded.names, decoded.checksums
    return [NormalImage(names[i], checksums[i], find_sha256(names[i])) for i in indices]


def make_account(
    decoded: Decoded, labels: np.ndarray, roles: Roles, reasons: Mapping[int, str] = MappingProxyType({})
) -> Account:
    """Makes the account of every file, or of every part of a source without files of its own.

    Args:
        decoded: all images.
        labels: 0 (normal) or 1 (anomalous), `[N]`.
        roles: the images that train, are held out and are tested.
        reasons: why an image is not used, by its index. An unused image without a reason is beyond a limit.
    """
    is_used = np.zeros(len(labels), bool)
    is_used[np.concatenate([roles.train, roles.held_out, roles.test])] = True
    if not decoded.files:
        role_names = [account.role_of(part, not label) for part, label in zip(decoded.parts, labels)]
        images = Counter(zip(role_names, decoded.parts))
        used = Counter(key for key, flag in zip(zip(role_names, decoded.parts), is_used) if flag)
        return account.of_parts((*key, count, used[key]) for key, count in sorted(images.items()))
    known = {file.name for file in decoded.files}
    # A file with several images has samples "name#1", "name#2", ...
    files = [name if name in known else name.rpartition("#")[0] for name in decoded.names]
    skipped: dict[str, list[str]] = {}
    for index, reason in decoded.skipped:
        skipped.setdefault(files[index], []).append(reason)
    used_files = Counter(file for file, flag in zip(files, is_used) if flag)
    return account.of_files(
        decoded.files, skipped, used_files, {files[i]: text for i, text in reasons.items()}
    )


def note_size(decoded: Decoded, data: DataConfig, normal: np.ndarray) -> list[str]:
    """Says how images are brought to the size of the model, and whether small defects may be lost.

    Args:
        decoded: all images.
        data: the configuration.
        normal: indices of the normal training images.
    """
    size = f"{data.height} x {data.width} pixels"
    if decoded.tiling:
        tiles = sum(decoded.tiling.grids[i].count for i in normal)
        return [
            f"The {len(normal)} normal training images are cut into {tiles} overlapping tiles of "
            f"{data.tiles} x {data.tiles} pixels (config.data.tiles), and each tile is brought to {size}."
        ]
    if data.fit == "exact":
        return []
    notes = [f"Images of other sizes are brought to {size} (config.data.fit = {data.fit!r})."]
    shorter = [min(decoded.sizes[i]) for i in normal] if decoded.sizes else []
    side = min(data.height, data.width)
    if shorter and (median := float(np.median(shorter))) > MAX_SHRINKING * side:
        fit = "" if data.fit == "resize" else " with config.data.fit='resize'"
        notes.append(
            f"The shorter side of the training images is shrunk from {median:.0f} to {side} pixels (median), "
            f"so small defects may vanish. To keep them, set config.data.tiles, for instance to {2 * side}"
            f"{fit}: images are then cut into tiles."
        )
    return notes


def note_unreadable(decoded: Decoded) -> list[str]:
    """Says how many images cannot be read, and why; [] if all can."""
    count = len(decoded.skipped)
    if not count:
        return []
    reasons = [reason for _, reason in decoded.skipped[:MAX_REASONS_IN_NOTE]]
    if count > len(reasons):
        reasons.append(f"and {count - len(reasons)} more")
    images = "1 image that" if count == 1 else f"{count} images that"
    return [f"Training and testing leave out {images} cannot be read: {'; '.join(reasons)}."]


def note_grey(decoded: Decoded, data: DataConfig) -> list[str]:
    """Says how many images are grey files if the others have colour; [] if all become grey."""
    count, total = len(decoded.grey), len(decoded.names) - len(decoded.skipped)
    if data.channels == 1 or not 0 < count < total:
        return []
    return [
        f"{count} of the {total} images are grey files (for instance {decoded.names[decoded.grey[0]]}), and "
        "the others have colour. If one can see the colour, a model tells them apart by this alone: save all "
        "images in the same way."
    ]


def note_clipped(decoded: Decoded, data: DataConfig) -> list[str]:
    """Says how many images have values outside the range; [] if none has."""
    if not decoded.clipped:
        return []
    first = decoded.names[decoded.clipped[0]]
    return [pixel_range.clipping_note(len(decoded.clipped), first, data)]
