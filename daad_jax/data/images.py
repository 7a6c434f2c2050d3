"""Prepares pictures for the model, and brings the model's maps back to the size of the picture."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from daad_jax.config import DataConfig
from daad_jax.data.decoding import Picture, is_grey_picture, picture_size
from daad_jax.data.pixel_range import find_limits, to_levels, to_unit, warn_of_new_type
from daad_jax.data.tiles import TileGrid
from daad_jax.errors import UserError

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's conversion to grey


def prepare(picture: Picture, config: DataConfig, name: str) -> np.ndarray:
    """Brings a picture to the range, the channels and the size of the model. All images come this way.

    Args:
        picture: a picture that `decode` returned.
        config: has range and bits, channels and size, and says what to do with other sizes.
        name: the image's name in errors.

    Returns:
        uint8 `[H, W, C]`, or uint16 if `config.bits` is 16. The largest value is the end of the range.

    Raises:
        UserError: the image has another size and `config.fit` is "exact".
    """
    warn_of_new_type(picture, config, name)
    size = picture_size(picture)
    inner = find_inner_size(size, (config.height, config.width), config.fit, name)
    if config.bits == 16:
        unit = to_unit_channels(picture, config)
        pixels = np.rint(65535 * scale_floats(unit, *inner)).astype(np.uint16)
    else:
        image = _to_image(picture, config)
        if inner != size:
            image = image.resize(inner[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(image).reshape(*inner, config.channels)
    return pad(pixels, config.height, config.width)


def prepare_tiles(picture: Picture, config: DataConfig, name: str) -> Iterator[np.ndarray]:
    """Cuts a picture into tiles, and prepares each tile as an image: yields `[H, W, C]`, see `prepare`.

    Each tile is cut when the caller takes it, so memory never holds all tiles of a large image.

    Args:
        picture: a picture that `decode` returned.
        config: the configuration, with `tiles` above 0.
        name: the image's name in errors.
    """
    for box in TileGrid.of(picture_size(picture), config).boxes():
        if isinstance(picture, np.ndarray):
            part: Picture = picture[box.top : box.bottom, box.left : box.right]
        else:
            part = picture.crop((box.left, box.top, box.right, box.bottom))
        yield prepare(part, config, name)


def to_pixels(picture: Picture, channels: int) -> np.ndarray:
    """Scales the full range of a picture's type to 0 ... 255, at its own size: uint8 `[h, w, channels]`."""
    return show_pixels(picture, DataConfig(channels=channels))


def show_pixels(picture: Picture, config: DataConfig) -> np.ndarray:
    """Scales the range of a run to 0 ... 255, at the picture's own size, to show it: uint8 `[h, w, C]`."""
    return np.asarray(_to_image(picture, config)).reshape(*picture_size(picture), config.channels)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Converts prepared images of 8 or 16 bits `[...]` to uint8, to show or to save them."""
    return images if images.dtype == np.uint8 else ((images.astype(np.uint32) + 128) // 257).astype(np.uint8)


def to_unit_channels(picture: Picture, config: DataConfig) -> np.ndarray:
    """Scales a picture to [0, 1] by the range of the run, in the model's channels: float32 `[h, w, C]`."""
    if isinstance(picture, np.ndarray):
        unit = to_unit(picture, config)
    else:
        channels = 1 if is_grey_picture(picture) else 3
        unit = to_unit(np.asarray(convert_channels(picture, channels)), config)
    if unit.ndim == 2:
        return np.repeat(unit[..., None], config.channels, axis=-1)
    return unit if config.channels == 3 else (unit @ np.array(LUMA, np.float32))[..., None]


def scale_floats(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales by an antialiased bilinear filter: float32 `[h, w, C]` -> `[height, width, C]`."""
    if image.shape[:2] == (height, width):
        return image
    scaled = np.empty((height, width, image.shape[2]), np.float32)
    for channel in range(image.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
        scaled[..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return scaled


def _to_image(picture: Picture, config: DataConfig) -> Image.Image:
    """Converts a picture to a grey or RGB image of 8 bits, by the range of the run."""
    if isinstance(picture, np.ndarray):
        return convert_channels(Image.fromarray(to_levels(to_unit(picture, config))), config.channels)
    image = convert_channels(picture, config.channels)
    if find_limits(config, "uint8") == (0, 255):
        return image
    return Image.fromarray(to_levels(to_unit(np.asarray(image), config)))


def convert_channels(image: Image.Image, channels: int) -> Image.Image:
    """Converts an image of 8 bits to grey (ITU-R 601 luma) or RGB; alpha is laid over black."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colour.size, (0, 0, 0, 255)), colour)
    if image.mode == "P":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def fit_mask(mask: np.ndarray, config: DataConfig, name: str) -> np.ndarray:
    """Brings a mask to the size of the model, as `prepare` does with its image. No new values appear.

    A mask with marked pixels stays a mask with marked pixels, see `scale_mask`.

    Args:
        mask: uint8 `[h, w]`.
        config: has the size, and says what to do with other sizes.
        name: the image's name in errors.

    Returns:
        uint8 `[H, W]`.

    Raises:
        UserError: the mask has another size than the model and `config.fit` is "exact".
    """
    inner = find_inner_size(mask.shape, (config.height, config.width), config.fit, name)
    return pad(scale_mask(mask, *inner), config.height, config.width)


def fit_mask_to_tiles(mask: np.ndarray, config: DataConfig) -> np.ndarray:
    """Cuts a mask into tiles, uint8 `[h, w]` -> `[count, H, W]`. No new values appear.

    The whole mask is first scaled to the size of the joined map, so that its tiles join to one mask again.
    """
    grid = TileGrid.of((mask.shape[0], mask.shape[1]), config)
    return grid.cut(scale_mask(mask, *grid.joined_size))


def scale_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales a mask to the nearest pixels: uint8 `[h, w]` of 0 and 1 -> `[height, width]`.

    If no marked pixel is left, because the defect is too small, every pixel that it touches is marked. The
    image would otherwise count as an image without a mask.
    """
    if mask.shape == (height, width):
        return mask
    scaled = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    if mask.any() and not scaled.any():
        rows, columns = np.nonzero(mask)
        scaled[rows * height // mask.shape[0], columns * width // mask.shape[1]] = 1
    return scaled


def find_inner_size(size: tuple[int, ...], target: tuple[int, int], mode: str, name: str) -> tuple[int, int]:
    """Returns the size (rows, columns) that an image is scaled to, before its edges are repeated.

    Args:
        size: rows and columns of the image.
        target: rows and columns of the model.
        mode: "exact" refuses images of another size; "resize" scales (antialiased bilinear) and may change
            the aspect; "pad" keeps the aspect, shrinks too large images, and repeats their edge pixels.
        name: the image's name in errors.

    Raises:
        UserError: the image has another size and `mode` is "exact".
    """
    rows, columns = size
    if (rows, columns) == target or mode == "resize":
        return target
    if mode == "pad":
        return shrink_to_fit(rows, columns, *target)
    raise UserError(
        f"{name}: the image has {rows} x {columns} pixels, but config.data asks for {target[0]} x "
        f"{target[1]}; set config.data.fit = 'resize' or 'pad'"
    )


def pad(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Repeats edge pixels evenly on all sides: `[h, w, ...]` -> `[height, width, ...]`."""
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (height, width):
        return pixels
    margins = [split_margin(rows, height), split_margin(columns, width), (0, 0)]
    return np.pad(pixels, margins[: pixels.ndim], mode="edge")


def undo_fit(
    values: np.ndarray, height: int, width: int, mode: str, size: tuple[int, int] | None = None
) -> np.ndarray:
    """Brings a map over a fitted image back to the size of the original image.

    Args:
        values: float32 `[H, W]`, a map over an image that `prepare` brought to H x W.
        height: the height of the original image.
        width: the width of the original image.
        mode: `config.data.fit` of the run that prepared the image.
        size: rows and columns of the result; None: the size of the original image.

    Returns:
        float32 `[height, width]`, or `[*size]`, scaled bilinearly.
    """
    if mode == "pad":
        rows, columns = shrink_to_fit(height, width, *values.shape)
        (top, _), (left, _) = split_margin(rows, values.shape[0]), split_margin(columns, values.shape[1])
        values = values[top : top + rows, left : left + columns]
    rows, columns = size or (height, width)
    scaled = Image.fromarray(np.ascontiguousarray(values, np.float32)).resize(
        (columns, rows), Image.Resampling.BILINEAR
    )
    return np.asarray(scaled)


def shrink_to_fit(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Returns the size (rows, columns) of an image after it is shrunk to at most `height` x `width`.

    The aspect stays the same. A smaller image keeps its size.
    """
    scale = min(1.0, height / rows, width / columns)
    return (rows, columns) if scale == 1 else (max(1, round(rows * scale)), max(1, round(columns * scale)))


def split_margin(inner: int, outer: int) -> tuple[int, int]:
    """Returns how many of `outer` pixels lie before and after `inner` pixels in the middle."""
    before = (outer - inner) // 2
    return before, outer - inner - before


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales by an antialiased bilinear filter: uint8 `[h, w, C]` -> `[height, width, C]`."""
    flat = image[..., 0] if image.shape[-1] == 1 else image
    resized = Image.fromarray(flat).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(height, width, image.shape[-1])
