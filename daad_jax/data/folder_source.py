"""A folder of images, read in place: MVTec AD's layout, or just good images."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from daad_jax.data.decoding import SUFFIXES, Picture, decode, is_grey, read_file
from daad_jax.data.images import to_pixels
from daad_jax.data.samples import GOOD, TEST, TRAIN, FileRecord, Listing, Sample, Source
from daad_jax.errors import UserError

SYSTEM_FOLDERS = ("lost+found", "System Volume Information", "$RECYCLE.BIN")


def open_folder(path: Path, mixed_channels: str) -> Source:
    """Lists the images of a folder.

    A folder with `train` inside has MVTec AD's layout: images to train on in `train/good`, and possibly test
    images `test/<defect type>/*` and masks `ground_truth/<defect type>/<name>_mask.png`. In any other
    folder, every image below it is a good one, to train on.

    Args:
        path: the folder.
        mixed_channels: "stop" refuses grey files beside colour ones, "convert" accepts both.

    Raises:
        UserError: the folder is missing, holds no normal images or cannot be listed, there are test images
            or masks in a folder without `train`, or grey files lie beside colour ones and
            `mixed_channels` is "stop".
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: this folder does not exist; give a folder of good images, or one with train/good inside"
        )
    if not (path / "train").is_dir():
        train, test = _list_samples(path, path, TRAIN, GOOD), []
        _refuse_test_images(path, train)
        if not train:
            raise UserError(
                f"{path}: this folder holds no images; give a folder with images ({', '.join(SUFFIXES)})"
            )
    else:
        train = _list_samples(path / "train" / GOOD, path, TRAIN, GOOD)
        if not train:
            raise UserError(
                f"{path / 'train' / GOOD}: this folder holds no images; put normal images to train on into it"
            )
        kinds = sorted(folder for folder in (path / "test").glob("[!.]*") if folder.is_dir())
        test = [sample for kind in kinds for sample in _list_samples(kind, path, TEST, kind.name)]
    files = [path / sample.name for sample in train + test]
    if mixed_channels == "stop":
        _refuse_mixed_channels(files)
    masks = sorted((path / "ground_truth").rglob("*_mask.png"))
    # Paths belong to the identity: renaming a folder does not change the times of its files.
    stamps = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files + masks]
    records = [FileRecord(sample.name, sample.part) for sample in train + test]
    return Source(f"folder {path.resolve()} {stamps}", lambda: Listing(train + test, records), path)


def find_images(folder: Path, leave_out: Path | None = None) -> Iterator[Path]:
    """Yields the image files below a folder, but not those below `leave_out`, in a fixed order.

    Folders are listed one by one while the caller iterates. Hidden files and folders are left out, because
    other programs made them (macOS puts "._x.png" beside x.png), and so are the system's own folders.

    Raises:
        UserError: a folder cannot be listed.
    """
    left_out = leave_out and leave_out.resolve()
    for place, folders, files in os.walk(folder, onerror=_refuse_unlistable):
        if left_out and Path(place).resolve() == left_out:
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in SYSTEM_FOLDERS)
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield Path(place, file)


def _list_samples(folder: Path, root: Path, part: str, kind: str) -> list[Sample]:
    return [_make_sample(file, root, part, kind) for file in find_images(folder) if file.is_file()]


def _make_sample(file: Path, root: Path, part: str, kind: str) -> Sample:
    mask = root / "ground_truth" / kind / f"{file.stem}_mask.png"

    def load() -> tuple[Picture, str]:
        content = read_file(file)
        return decode(content, str(file)), hashlib.sha256(content).hexdigest()

    def load_mask() -> tuple[np.ndarray, dict[str, str]]:
        content = read_file(mask)
        pixels = to_pixels(decode(content, str(mask)), 1)[..., 0]
        digests = {str(mask.relative_to(root)): hashlib.sha256(content).hexdigest()}
        return (pixels > 127).astype(np.uint8), digests

    name = str(file.relative_to(root))
    return Sample(name, part, kind, load, load_mask if kind != GOOD and mask.is_file() else None, file=name)


def _refuse_unlistable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # a missing folder holds no images
        return
    raise UserError(
        f"{error.filename}: this folder cannot be listed ({error.strerror}); correct its permissions, or "
        "move the folder elsewhere"
    )


def _refuse_test_images(path: Path, samples: list[Sample]) -> None:
    for sample in samples:
        if {"test", "ground_truth"} & set(Path(sample.name).parts[:-1]):
            raise UserError(
                f"{path / sample.name}: this file is a test image or a mask, but {path} must hold only good "
                "images; give a folder with train/good inside, or one with only good images"
            )


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
