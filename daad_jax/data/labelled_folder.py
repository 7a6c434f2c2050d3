"""A folder of labelled images to test a run with. No image to train on needs to be there."""

import hashlib
from pathlib import Path

import numpy as np

from daad_jax.data.decoding import Picture, decode, read_file
from daad_jax.data.folder_source import find_images
from daad_jax.data.images import to_pixels
from daad_jax.data.samples import GOOD, TEST, FileRecord, Listing, Sample, Source
from daad_jax.errors import UserError

TRAIN_FOLDER, TEST_FOLDER, MASK_FOLDER = "train", "test", "ground_truth"


def open_labelled_folder(path: Path) -> Source:
    """Lists the labelled images of a folder; all of them are in the part `TEST`.

    An image's label is the name of its folder: `test/<kind>`, or `<kind>` if there is no folder `test`. The
    kind "good" is normal. Masks are `ground_truth/<kind>/<name>_mask.png`, in the folder or beside it.

    Raises:
        UserError: the folder is missing or cannot be listed, or an image has no label.
    """
    if not path.is_dir():
        raise UserError(f"{path}: this folder does not exist; give a folder of labelled images")
    base = path / TEST_FOLDER if (path / TEST_FOLDER).is_dir() else path
    if base == path and (path / TRAIN_FOLDER).is_dir():
        raise UserError(
            f"{path}: this folder has images to train on, but no images to test; put them into test/{GOOD} "
            "and test/<defect type>"
        )
    masks = next((d / MASK_FOLDER for d in (path, path.parent) if (d / MASK_FOLDER).is_dir()), None)
    files = [file for file in find_images(base) if file.is_file() and not _is_below(file, masks)]
    unlabelled = [file for file in files if file.parent == base]
    if unlabelled or not files:
        problem = f"{len(unlabelled)} images without a label" if unlabelled else "no images"
        raise UserError(
            f"{base}: this folder holds {problem}; put the images into sub-folders that say what they show, "
            f"{GOOD} for normal ones and <defect type> for others. predict scores images without labels"
        )
    samples = [_make_sample(file, path, file.relative_to(base).parts[0], masks) for file in files]
    stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in (*files, *_list_masks(masks))]
    records = [FileRecord(sample.name, f"test {sample.kind}") for sample in samples]
    return Source(f"labelled folder {path.resolve()} {stamps}", read=lambda: Listing(samples, records))


def _is_below(file: Path, folder: Path | None) -> bool:
    return folder is not None and file.is_relative_to(folder)


def _list_masks(folder: Path | None) -> list[Path]:
    return [] if folder is None else sorted(folder.rglob("*_mask.png"))


def _make_sample(file: Path, root: Path, kind: str, masks: Path | None) -> Sample:
    mask = None if masks is None or kind == GOOD else masks / kind / f"{file.stem}_mask.png"

    def load() -> tuple[Picture, str]:
        content = read_file(file)
        return decode(content, str(file)), hashlib.sha256(content).hexdigest()

    def load_mask() -> tuple[np.ndarray, dict[str, str]]:
        assert mask is not None
        content = read_file(mask)
        pixels = to_pixels(decode(content, str(mask)), 1)[..., 0]
        return (pixels > 127).astype(np.uint8), {str(mask): hashlib.sha256(content).hexdigest()}

    name = str(file.relative_to(root))
    return Sample(name, TEST, kind, load, load_mask if mask is not None and mask.is_file() else None, name)
