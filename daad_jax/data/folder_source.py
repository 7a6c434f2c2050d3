"""A folder of images, read in place: MVTec AD's layout, or just good images."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from daad_jax.data.images import SUFFIXES, decode, is_grey
from daad_jax.data.samples import GOOD, Sample, Samples
from daad_jax.errors import UserError

OF_THE_SYSTEM = ("lost+found", "System Volume Information", "$RECYCLE.BIN")


def open_folder(path: Path, channels: int, mixed_channels: str) -> Samples:
    """Lists a folder.

    With a `train/good` inside it is MVTec AD's layout: `test/<defect type>/*` and
    `ground_truth/<defect type>/<name>_mask.png` are used where they exist. Otherwise every image
    below it is a good one, to train on.

    Raises:
        UserError: missing or empty folder, no normal images, test images or masks among those of a
            folder without train/good, or grey and colour files mixed where
            `mixed_channels` is "stop".
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give one with images, or with train/good inside")
    if not (path / "train").is_dir():
        train, test = _list(path, path, GOOD, channels), []
        _refuse_tests(path, train)
        if not train:
            raise UserError(f"{path}: no images here ({', '.join(SUFFIXES)})")
    else:
        train = _list(path / "train" / GOOD, path, GOOD, channels)
        if not train:
            raise UserError(f"{path / 'train' / GOOD}: no normal images to train on")
        kinds = sorted(p for p in (path / "test").glob("[!.]*") if p.is_dir())
        test = [s for kind in kinds for s in _list(kind, path, kind.name, channels)]
    files = [path / sample.name for sample in train + test]
    if mixed_channels == "stop":
        _refuse_mixture(files)
    masks = sorted((path / "ground_truth").rglob("*_mask.png"))
    # A folder that is renamed leaves the times of its files.
    stamps = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files + masks]
    return Samples(f"folder {path.resolve()} {stamps}", read=lambda: (train, test))


def images_below(folder: Path, leave_out: Path | None = None) -> Iterator[Path]:
    """Image files below a folder, but not below `leave_out`, in a fixed order, listed as they are asked for.

    Hidden files and folders are other programs' (macOS leaves "._x.png" beside x.png) and left out, as are
    the system's own.

    Raises:
        UserError: a folder that cannot be listed.
    """
    left = leave_out and leave_out.resolve()
    for place, folders, files in os.walk(folder, onerror=_refuse_unlisted):
        if left and Path(place).resolve() == left:
            folders.clear()
            continue
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in OF_THE_SYSTEM)
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield Path(place, file)


def _list(folder: Path, root: Path, kind: str, channels: int) -> list[Sample]:
    return [_sample(file, root, kind, channels) for file in images_below(folder) if file.is_file()]


def _sample(file: Path, root: Path, kind: str, channels: int) -> Sample:
    mask = root / "ground_truth" / kind / f"{file.stem}_mask.png"

    def load_mask() -> np.ndarray:
        return (decode(mask, 1)[..., 0] > 127).astype(np.uint8)

    return Sample(
        name=str(file.relative_to(root)),
        kind=kind,
        load=lambda: decode(file, channels),
        load_mask=load_mask if kind != GOOD and mask.is_file() else None,
    )


def _refuse_unlisted(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):  # nothing is in it
        return
    raise UserError(
        f"{error.filename}: cannot be listed ({error.strerror}); mend its rights, or leave it out"
    )


def _refuse_tests(path: Path, samples: list[Sample]) -> None:
    for sample in samples:
        if {"test", "ground_truth"} & set(Path(sample.name).parts[:-1]):
            raise UserError(
                f"{path / sample.name}: a test image or a mask, where only good images are expected; "
                "give a folder with train/good inside, or one with just good images"
            )


def _refuse_mixture(files: list[Path]) -> None:
    first: dict[bool, Path] = {}
    for file in files:
        try:
            first.setdefault(is_grey(file), file)
        except Exception:
            continue  # whatever Pillow minds, decoding will name it
        if len(first) == 2:
            raise UserError(
                f"{first[True]} is grey but {first[False]} is colour; convert them alike, or set "
                "config.data.mixed_channels = 'convert'"
            )
