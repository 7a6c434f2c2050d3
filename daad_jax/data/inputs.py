"""Opens images that Python code gives: paths, bytes of image files, arrays and Pillow images."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from daad_jax.buckets import open_place
from daad_jax.data.containers import count_pages
from daad_jax.data.decoding import Picture, convert_array, convert_pillow_image, decode, read_file
from daad_jax.errors import UserError

ACCEPTED = "a path, the bytes of an image file, a NumPy or JAX array, a Pillow image, or several of these"


def open_image(image: Any, name: str, max_pixels: int) -> tuple[Picture, str]:
    """Opens one image.

    Args:
        image: a path, the bytes of an image file, a Pillow image, or pixels in a NumPy or JAX array, see
            `convert_array`.
        name: the image's name in errors. For a path, the path itself is the name.
        max_pixels: an image with more pixels is refused.

    Returns:
        The picture, and the SHA-256 of the encoded image; "" if the image is not encoded.

    Raises:
        UserError: the image cannot be read or is of another type, or the file holds several images.
    """
    if isinstance(image, (str, os.PathLike)):
        name, image = str(image), read_file(open_place(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        content = bytes(image)
        picture = decode(content, name, max_pixels=max_pixels)
        if (pages := count_pages(content)) > 1:
            raise UserError(
                f"{name}: the file holds {pages} images, but one is expected; give its pages as arrays, or "
                "score the file with predict"
            )
        return picture, hashlib.sha256(content).hexdigest()
    if isinstance(image, Image.Image):
        return convert_pillow_image(image, name, max_pixels), ""
    if is_array(image):
        return convert_array(np.asarray(image), name, max_pixels), ""
    raise UserError(f"{name}: an object of type {type(image).__name__} is no image; give {ACCEPTED}")


def several(images: Any) -> Iterable[Any]:
    """Returns the images of a call. A single image may come without a list.

    Raises:
        UserError: the object is no image and no iterable of images.
    """
    if is_array(images):
        array = np.asarray(images)
        return array if array.ndim == 4 else [array]
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return [images]
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        return images
    raise UserError(f"an object of type {type(images).__name__} is no image; give {ACCEPTED}")


def is_array(value: Any) -> bool:
    """Whether a value is a NumPy array, or an array of JAX or another library that NumPy can convert."""
    is_image = isinstance(value, Image.Image)
    return isinstance(value, np.ndarray) or (hasattr(value, "__array__") and not is_image)
