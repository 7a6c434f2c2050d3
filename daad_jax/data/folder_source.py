"""Reads a folder of images in place: lists its files, gives them roles, and pairs masks with images."""

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from daad_jax.buckets import make_absolute
from daad_jax.config import DataConfig
from daad_jax.data import account
from daad_jax.data.containers import PAGED_SUFFIXES
from daad_jax.data.decoding import SUFFIXES, is_grey
from daad_jax.data.deep_pixels import find_pixel_type
from daad_jax.data.image_files import ImageFile, find_pages
from daad_jax.data.layouts import IMAGE, IS_MASK, Assignment, assign_roles
from daad_jax.data.mask_roles import Marked, mark_images
from daad_jax.data.masks import NamedFile, PackedMask
from daad_jax.data.name_patterns import Patterns
from daad_jax.data.samples import GOOD, HELD_OUT, TEST, TRAIN, FileRecord, Listing, Sample, Source
from daad_jax.data.walk import WalkedFile, walk
from daad_jax.errors import UserError

COUNTING_THREADS = 8


def open_folder(path: Path, config: DataConfig) -> Source:
    """Opens a folder of images in one of the layouts of docs/data.md.

    The names of the folders say which images are good, which are anomalous and which files are masks.
    `config.normal`, `config.anomalous` and `config.masks` can say it instead. Files are opened only if their
    names have no suffix, or if `config.mixed_channels` is "stop".

    Args:
        path: the folder.
        config: has the names or patterns of folders. With `mixed_channels` = "stop", grey files beside colour
            files are refused.

    Raises:
        UserError: the folder is missing, holds no images or cannot be listed, its layout is not clear, or
            grey files lie beside colour ones and `config.mixed_channels` is "stop".
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: this folder does not exist; give a folder of good images, or one with train/good inside"
        )
    files = list(walk(path))
    candidates = [file for file in files if not file.reason]
    patterns = Patterns.parse(config.normal, config.anomalous, config.masks)
    assignments = assign_roles([file.name for file in candidates], patterns, str(path))
    if not any(assignment.role == IMAGE for assignment in assignments):
        raise _no_images(path, files, assignments)
    named = [NamedFile(file.name, assignment) for file, assignment in zip(candidates, assignments)]
    if config.mixed_channels == "stop":
        _refuse_mixed_channels([path / file.name for file in named if file.assignment.role == IMAGE])
    return Source(
        _identify(path, files, patterns),
        lambda: _read(path, files, named, config.max_pixels),
        path,
    )


def _no_images(path: Path, files: list[WalkedFile], assignments: list[Assignment]) -> UserError:
    reasons = Counter([f.reason for f in files if f.reason] + [a.reason for a in assignments if a.reason])
    masks = sum(assignment.role == IS_MASK for assignment in assignments)
    found = ", ".join(filter(None, [f"{masks} mask(s)" if masks else "", account.count_reasons(reasons)]))
    return UserError(
        f"{path}: this folder holds no images{f' ({found})' if found else ''}; give a folder with images "
        f"({', '.join(SUFFIXES)}), for instance with good ones in train/good"
        + ("; if these are no masks, name their folders in config.data.normal" if masks else "")
    )


def _identify(path: Path, files: list[WalkedFile], patterns: Patterns) -> str:
    """Returns a text that changes whenever the listing or a pixel could have changed.

    The content of a file that is left out does not matter; only its name and the reason count.
    """
    digest = hashlib.sha256(repr(patterns).encode("utf-8", "surrogateescape"))
    for file in files:
        digest.update(repr((file.name, file.reason, file.stamp)).encode("utf-8", "surrogateescape"))
    return f"folder {make_absolute(path)} {digest.hexdigest()}"


def _read(root: Path, files: list[WalkedFile], named: list[NamedFile], max_pixels: int) -> Listing:
    """Counts the images of each file, reads the masks, and lists samples and files."""
    images = [file for file in named if file.assignment.role == IMAGE]
    masks = [file for file in named if file.assignment.role == IS_MASK]
    pages = _count_all_pages(root, images)
    marked = mark_images(root, images, masks, pages, max_pixels)
    by_name = {file.name: file.assignment for file in named}
    samples: list[Sample] = []
    records: list[FileRecord] = []
    for file in files:
        assignment = by_name.get(file.name)
        if assignment is None:
            records.append(FileRecord(file.name, account.LEFT_OUT, images=0, reason=file.reason))
        elif assignment.role == IMAGE:
            settled = [marked.settle(file.name, page, assignment) for page in range(pages[file.name])]
            samples += _make_samples(root, file.name, settled, marked, max_pixels)
            records.append(_record_image(file.name, settled, marked.mask_counts.get(file.name, 0)))
        elif assignment.role == IS_MASK:
            reason, sha256 = marked.mask_reasons.get(file.name, ""), marked.digests.get(file.name, "")
            records.append(FileRecord(file.name, account.MASK, images=0, reason=reason, sha256=sha256))
        else:
            records.append(FileRecord(file.name, account.LEFT_OUT, reason=assignment.reason))
    in_parts = sorted(samples, key=lambda sample: (TRAIN, HELD_OUT, TEST).index(sample.part))
    return Listing(in_parts, records)


def _count_all_pages(root: Path, images: Sequence[NamedFile]) -> dict[str, int]:
    """Counts the images in each file. Returns 1 for an unreadable file, which decoding reports."""
    pages = {image.name: 1 for image in images}
    paged = [name for name in pages if name.lower().endswith(PAGED_SUFFIXES)]
    with ThreadPoolExecutor(COUNTING_THREADS) as pool:
        return pages | dict(zip(paged, pool.map(lambda name: find_pages(root / name), paged)))


def _make_samples(
    root: Path, name: str, settled: list[Assignment], marked: Marked, max_pixels: int
) -> list[Sample]:
    """Makes a sample for each page of a file that is used. The first of several pages is `name#1`."""
    samples = []
    for page, assignment in enumerate(settled):
        if assignment.role != IMAGE:
            continue
        image = ImageFile(root / name, page, len(settled))
        mask = marked.masks.get((name, page))
        if isinstance(mask, PackedMask) and mask.is_empty:
            mask = None
        samples.append(
            Sample(
                name=f"{name}#{page + 1}" if len(settled) > 1 else name,
                part=assignment.part,
                kind=assignment.kind,
                load=functools.partial(image.load, max_pixels),
                load_mask=functools.partial(_load_mask, mask) if mask else None,
                file=name,
                pixel_type=functools.partial(find_pixel_type, root / name, page),
            )
        )
    return samples


def _load_mask(mask: PackedMask | UserError) -> tuple[np.ndarray, dict[str, str]]:
    if isinstance(mask, UserError):
        raise mask
    return mask.unpack(), {}  # no digests, because the records of the mask files have them already


def _record_image(name: str, settled: list[Assignment], masks: int) -> FileRecord:
    used = [assignment for assignment in settled if assignment.role == IMAGE]
    reason = next((assignment.reason for assignment in settled if assignment.reason), "")
    if not used:
        return FileRecord(name, account.LEFT_OUT, len(settled), masks, reason)
    role = account.role_of(used[0].part, used[0].kind == GOOD)
    if reason:
        reason = f"{len(settled) - len(used)} of its {len(settled)} images: {reason}"
    return FileRecord(name, role, len(settled), masks, reason)


def _refuse_mixed_channels(files: list[Path]) -> None:
    first: dict[bool, Path] = {}
    for file in files:
        try:
            first.setdefault(is_grey(file), file)
        except Exception:
            continue  # a broken file is reported when it is decoded
        if len(first) == 2:
            raise UserError(
                f"{first[True]} is grey but {first[False]} is colour; convert the files to the same mode, or "
                "set config.data.mixed_channels = 'convert'"
            )
