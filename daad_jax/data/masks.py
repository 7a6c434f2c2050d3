"""Reads masks: finds the image of each mask, and the pixels that the mask marks."""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from daad_jax.data.containers import PAGED_SUFFIXES, count_pages
from daad_jax.data.decoding import Picture, decode, read_file
from daad_jax.data.folder_words import split_mask_stem, strip_number
from daad_jax.data.images import convert_channels
from daad_jax.data.layouts import Assignment
from daad_jax.data.samples import GOOD, TEST
from daad_jax.errors import UserError

READING_THREADS = 8


@dataclass(frozen=True)
class NamedFile:
    """An image or a mask: its path below the folder of the data, and its role."""

    name: str
    assignment: Assignment

    @property
    def file(self) -> str:
        return self.name.rpartition("/")[2].lower()

    @property
    def stem(self) -> str:
        return self.file.rpartition(".")[0] or self.file


def pair(masks: Sequence[NamedFile], images: Sequence[NamedFile]) -> dict[str, str]:
    """Finds the image of each mask, by their folders and names.

    Some names do not count: the part ("test"), folders of masks, and folders like "images". The other names
    must be equal: `ground_truth/crack/1_mask.png` and `test/crack/1.jpg`. The folder of a mask may also have
    the name of the image (`ground_truth/crack/1/0.png`). A mask with fewer or more folders than its image
    (`masks/1.png`) belongs to the only image of its name that is not good.

    Returns:
        The name of the image, by the name of the mask. Masks without an image are missing.

    Raises:
        UserError: a mask fits several images.
    """
    table = _Table(images)
    return {mask.name: image.name for mask in masks if (image := table.find(mask))}


class _Table:
    """The images by their names."""

    def __init__(self, images: Iterable[NamedFile]) -> None:
        self._by_name: dict[str, list[NamedFile]] = defaultdict(list)
        for image in images:
            for name in {image.file, image.stem}:
                self._by_name[name].append(image)

    def find(self, mask: NamedFile) -> NamedFile | None:
        """Returns the image of a mask; None if there is none. Raises UserError if there are several."""
        folders = mask.assignment.folders
        base = split_mask_stem(mask.stem)[0]
        names = [name for name in (mask.stem, base, strip_number(base or mask.stem)) if name]
        ways = [(folders, name) for name in names]
        if folders:
            ways.append((folders[:-1], folders[-1]))
        for is_exact in (True, False):
            for own_folders, name in ways:
                fitting = [
                    image
                    for image in self._by_name.get(name, [])
                    if _fits(image.assignment, own_folders, mask.assignment.part, is_exact)
                ]
                if image := _choose(mask, fitting, is_exact):
                    return image
        return None


def _fits(image: Assignment, folders: tuple[str, ...], part: str, is_exact: bool) -> bool:
    if part and image.part != part:
        return False
    if is_exact:
        return image.folders == folders
    return _is_within(folders, image.folders) or _is_within(image.folders, folders)


def _is_within(few: Sequence[str], many: Sequence[str]) -> bool:
    """Whether `many` has all names of `few`, in the same order."""
    rest = iter(many)
    return all(name in rest for name in few)


def _choose(mask: NamedFile, fitting: list[NamedFile], is_exact: bool) -> NamedFile | None:
    """Chooses the image of a mask: anomalous images come before good ones, test images before others."""
    not_good = [image for image in fitting if image.assignment.kind != GOOD]
    tested = [image for image in not_good or fitting if image.assignment.part == TEST]
    chosen = tested or not_good or fitting
    if len(chosen) > 1 and (not_good or is_exact):
        names = " or ".join(sorted(image.name for image in chosen)[:3])
        raise UserError(
            f"{mask.name}: this mask may belong to {names}; give masks the folders and names of their "
            "images, for instance ground_truth/crack/1_mask.png for test/crack/1.png"
        )
    return chosen[0] if len(chosen) == 1 else None


@dataclass(frozen=True)
class MaskFile:
    """The content of a mask file: the marked pixels of each page, and the SHA-256 of the file."""

    pages: tuple["PackedMask", ...]
    sha256: str


@dataclass(frozen=True)
class PackedMask:
    """A mask in little memory: uint8 `[h, w]` of 0 and 1."""

    shape: tuple[int, int]
    is_empty: bool
    _bits: bytes

    @classmethod
    def pack(cls, mask: np.ndarray) -> "PackedMask":
        rows, columns = mask.shape
        return cls((rows, columns), not mask.any(), zlib.compress(np.packbits(mask).tobytes(), 1))

    def unpack(self) -> np.ndarray:
        bits = np.frombuffer(zlib.decompress(self._bits), np.uint8)
        return np.unpackbits(bits, count=self.shape[0] * self.shape[1]).reshape(self.shape)


def read_masks(root: Path, masks: Sequence[NamedFile], max_pixels: int) -> dict[str, MaskFile | UserError]:
    """Reads mask files, each once.

    Returns:
        The content of each file, or why it cannot be read, by the name of the mask.

    Raises:
        UserError: a file counts as a mask only because it lies beside an image, and has more than two values.
    """

    def read(mask: NamedFile) -> MaskFile | UserError:
        try:
            return _read_mask(root / mask.name, mask.assignment.is_twin, max_pixels)
        except _NoMaskError:
            raise
        except UserError as error:
            return UserError(str(error))  # a new error, because a traceback keeps the pixels in memory

    with ThreadPoolExecutor(READING_THREADS) as pool:
        return dict(zip((mask.name for mask in masks), pool.map(read, masks)))


class _NoMaskError(UserError):
    """A file is no mask."""


def _read_mask(path: Path, is_twin: bool, max_pixels: int) -> MaskFile:
    content = read_file(path)
    is_paged = path.suffix.lower() in PAGED_SUFFIXES
    pages = []
    for page in range(count_pages(path) if is_paged else 1):
        picture = decode(content, str(path), page, max_pixels)
        if is_twin and _count_values(picture) > 2:
            raise _NoMaskError(
                f"{path}: this file lies beside an image of the same name, as masks do, but has more than "
                "two values; if it is an image, remove one of the two; if it is a mask, set "
                f"config.data.masks = '*{path.suffix}'"
            )
        pages.append(PackedMask.pack(find_marked(picture, _is_lossy(content))))
    return MaskFile(tuple(pages), hashlib.sha256(content).hexdigest())


def find_marked(picture: Picture, is_lossy: bool = False) -> np.ndarray:
    """Finds the marked pixels of a mask: all pixels that are not black.

    The marked value may be 1 or 255, grey, a colour or an entry of a palette. Alpha is laid over black. A
    lossy format (JPEG) smears values around an edge, so only pixels above half of the largest value are
    marked.

    Returns:
        uint8 `[h, w]` of 0 and 1.
    """
    values = _values(picture).max(axis=-1)
    return (values > (values.max() / 2 if is_lossy else 0)).astype(np.uint8)


def _values(picture: Picture) -> np.ndarray:
    """Returns the stored values of a picture, `[h, w, C]`."""
    if isinstance(picture, np.ndarray):
        return picture[..., None] if picture.ndim == 2 else picture
    return np.asarray(convert_channels(picture, 3))


def _count_values(picture: Picture) -> int:
    values = _values(picture)
    return len(np.unique(values.reshape(-1, values.shape[-1]), axis=0))


def _is_lossy(content: bytes) -> bool:
    """Whether the format may change pixel values: JPEG, JPEG 2000, lossy WebP, AVIF, HEIC."""
    is_webp = content[:4] == b"RIFF" and content[12:16] != b"VP8L"
    is_jpeg_2000 = content[4:8] == b"jP  " or content.startswith(b"\xff\x4f\xff\x51")
    return content.startswith(b"\xff\xd8\xff") or is_webp or is_jpeg_2000 or content[4:8] == b"ftyp"


def unite(masks: Sequence[PackedMask], image: str) -> PackedMask:
    """Returns the union of the masks of one image. Raises UserError if they have different sizes."""
    if len({mask.shape for mask in masks}) > 1:
        sizes = " and ".join(f"{rows} x {columns}" for rows, columns in sorted({m.shape for m in masks}))
        raise UserError(f"{image}: its masks have {sizes} pixels; give masks of the image's size")
    if len(masks) == 1:
        return masks[0]
    return PackedMask.pack(np.maximum.reduce([mask.unpack() for mask in masks]))
