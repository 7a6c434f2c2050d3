"""Reads from the masks of a folder where the defects are, and which images are good."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from daad_jax.data.account import UNREADABLE
from daad_jax.data.layouts import KIND_BY_MASK, LEFT_OUT, PART_BY_KIND, Assignment, settle_kind
from daad_jax.data.masks import MaskFile, NamedFile, PackedMask, pair, read_masks, unite
from daad_jax.data.samples import GOOD, TEST
from daad_jax.errors import UserError

ANOMALOUS_KIND = "anomalous"  # the kind of an image that is anomalous by its mask alone
# Why an image or a mask is not used. The texts follow a count in messages.
NO_MASK = "without a mask that says whether it is good"
NO_IMAGE = "without an image of its name"
EMPTY_MASK = "empty, although the image is anomalous"
OF_GOOD_IMAGE = "without an anomalous image of its name"
LEFT_OUT_IMAGE = "of an image that is left out"


@dataclass
class Marked:
    """The images of a folder after their masks were read.

    Attributes:
        masks: the united mask, or why it cannot be read, by name and page of the image.
        mask_counts: the number of mask files of an image, by the name of the image.
        mask_reasons: why a mask is not used, by the name of the mask.
        digests: the SHA-256 of a mask's file, if it was read, by the name of the mask.
        kinds: the kind of each image that only masks tell, by name and page: `GOOD`, `ANOMALOUS_KIND`, or
            `KIND_BY_MASK` if no mask tells.
    """

    masks: dict[tuple[str, int], PackedMask | UserError] = field(default_factory=dict)
    mask_counts: dict[str, int] = field(default_factory=dict)
    mask_reasons: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    kinds: dict[tuple[str, int], str] = field(default_factory=dict)

    def settle(self, name: str, page: int, assignment: Assignment) -> Assignment:
        """Returns the assignment of a page of an image file, now that its masks are known."""
        if assignment.kind != KIND_BY_MASK:
            return assignment
        kind = self.kinds[name, page]
        if kind == KIND_BY_MASK:
            return assignment._replace(role=LEFT_OUT, reason=NO_MASK)
        return settle_kind(assignment._replace(kind=kind))


def mark_images(
    root: Path,
    images: Sequence[NamedFile],
    masks: Sequence[NamedFile],
    pages: dict[str, int],
    max_pixels: int,
) -> Marked:
    """Pairs masks with images, reads the masks, and finds the kinds of images that only masks tell.

    Page k of a mask belongs to page k of its image. An image is good if its mask marks no pixel, and
    anomalous if its mask marks one. An image without a mask is good if other images of its part have masks
    and every such mask marks a pixel. Otherwise the image is left out.

    Args:
        root: the folder of the data.
        images: the images.
        masks: the masks.
        pages: the number of images in each image file.
        max_pixels: larger masks are refused.

    Raises:
        UserError: a mask fits several images, the mask of a good image marks something, or no mask fits an
            image while only masks can tell which images are good.
    """
    marked = Marked()
    image_of = pair(masks, images)
    by_name = {image.name: image for image in images}
    files = read_masks(root, [mask for mask in masks if mask.name in image_of], max_pixels)
    masks_of: dict[str, list[NamedFile]] = defaultdict(list)
    for mask in masks:
        if mask.name not in image_of:
            marked.mask_reasons[mask.name] = NO_IMAGE
            continue
        masks_of[image_of[mask.name]].append(mask)
        read = files[mask.name]
        marked.digests[mask.name] = read.sha256 if isinstance(read, MaskFile) else ""
    for name, own in masks_of.items():
        _mark_image(by_name[name], own, files, pages[name], marked)
    _find_kinds(images, pages, bool(masks), root, marked)
    for name, own in masks_of.items():
        assignment = by_name[name].assignment
        if all(marked.settle(name, page, assignment).reason for page in range(pages[name])):
            for mask in own:
                marked.mask_reasons.setdefault(mask.name, LEFT_OUT_IMAGE)
    return marked


def _mark_image(
    image: NamedFile,
    masks: list[NamedFile],
    files: dict[str, MaskFile | UserError],
    pages: int,
    marked: Marked,
) -> None:
    """Notes the masks of one image."""
    used = []
    for mask in masks:
        read = files[mask.name]
        is_empty = isinstance(read, MaskFile) and all(page.is_empty for page in read.pages)
        if image.assignment.kind == GOOD and isinstance(read, MaskFile) and not is_empty:
            if mask.assignment.folders == image.assignment.folders:
                raise UserError(
                    f"{mask.name}: this mask marks a defect in {image.name}, which counts as good; correct "
                    "the mask, or move the image to the anomalous ones"
                )
            marked.mask_reasons[mask.name] = OF_GOOD_IMAGE
            continue
        if is_empty and image.assignment.kind not in (GOOD, KIND_BY_MASK):
            marked.mask_reasons[mask.name] = EMPTY_MASK
            continue
        if isinstance(read, UserError):
            marked.mask_reasons[mask.name] = UNREADABLE
        elif len(read.pages) > pages:
            raise UserError(
                f"{mask.name}: this mask has {len(read.pages)} pages, but {image.name} has {pages}; give "
                "a page for each page of the image"
            )
        used.append(read)
    if not used:
        return
    marked.mask_counts[image.name] = len(used)
    for page in range(pages):
        broken = next((read for read in used if isinstance(read, UserError)), None)
        own = [read.pages[page] for read in used if isinstance(read, MaskFile) and page < len(read.pages)]
        if broken:
            marked.masks[image.name, page] = broken
        elif own:
            marked.masks[image.name, page] = unite(own, image.name)


def _find_kinds(
    images: Sequence[NamedFile], pages: dict[str, int], has_masks: bool, root: Path, marked: Marked
) -> None:
    """Notes the kinds of the images that only their masks tell."""
    waiting = [image for image in images if image.assignment.kind == KIND_BY_MASK]
    if waiting and has_masks and not marked.masks:
        raise UserError(
            f"{root}: only masks can tell which of these images are good, but no mask has the name of an "
            f"image (the first image is {waiting[0].name}); rename the masks, or set config.data.normal "
            "and config.data.anomalous"
        )
    has_empty: set[str] = set()  # the parts with an empty mask
    has_marks: set[str] = set()  # the parts with a mask that marks a pixel
    for image in waiting:
        for page in range(pages[image.name]):
            mask = marked.masks.get((image.name, page))
            if mask is None:
                continue
            if isinstance(mask, UserError):  # decoding reports it, and the image is not used
                marked.kinds[image.name, page] = GOOD
                continue
            (has_empty if mask.is_empty else has_marks).add(image.assignment.part)
            marked.kinds[image.name, page] = GOOD if mask.is_empty else ANOMALOUS_KIND
    for image in waiting:
        a = image.assignment
        is_good = a.part not in (TEST, PART_BY_KIND, *has_empty, *has_marks)
        is_good |= not a.needs_mask and a.part in has_marks and a.part not in has_empty
        for page in range(pages[image.name]):
            marked.kinds.setdefault((image.name, page), GOOD if is_good else KIND_BY_MASK)
