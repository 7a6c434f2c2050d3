"""Image files of every format that we read, and a seeded generator of damage."""

import io

import numpy as np
from PIL import Image

WAYS = ("cut", "flip", "zero", "noise", "insert", "repeat", "swap", "number")
NUMBERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\0\0\0\x01")


def make_files() -> dict[str, bytes]:
    """Sound files of 24 x 20 pixels, by a name that says what they are."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
    colour, grey = Image.fromarray(colours), Image.fromarray(colours[..., 0])
    deep = Image.fromarray(rng.integers(0, 2**16, (20, 24)).astype(np.uint16))
    alpha = Image.fromarray(np.dstack([colours, colours[..., :1]]))
    kinds = {
        "PNG": (colour, grey, deep, alpha, colour.quantize(7), grey.convert("1")),
        "JPEG": (colour, grey, colour.convert("CMYK")),
        "BMP": (colour, grey, colour.quantize(7)),
        "GIF": (colour.quantize(7),),
        "TIFF": (colour, grey, deep, Image.fromarray(colours[..., 0].astype(np.float32))),
        "WEBP": (colour, alpha),
        "PPM": (colour, grey),
        "JPEG2000": (colour, grey),
        "AVIF": (colour,),
    }
    files = {f"{kind} {image.mode}": save(image, kind) for kind, images in kinds.items() for image in images}
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        image = grey.convert("1") if compression == "group4" else colour
        files[f"TIFF {compression}"] = save(image, "TIFF", compression=compression)
    files["TIFF of three"] = save(colour, "TIFF", save_all=True, append_images=[grey, colour])
    files["PNG with EXIF"] = save(colour, "PNG", exif=_turned())
    for dtype in ("u1", ">u2", "f4"):
        opened = io.BytesIO()
        np.save(opened, colours.astype(dtype))
        files[f"NPY {dtype}"] = opened.getvalue()
    return files


def save(image: Image.Image, kind: str, **options: object) -> bytes:
    opened = io.BytesIO()
    image.copy().save(opened, kind, **options)  # type: ignore[arg-type]
    return opened.getvalue()


def damage(content: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """The content with one to three damages, more of them near the beginning, and what they are."""
    ways = []
    for _ in range(rng.integers(1, 4)):
        way, size = str(rng.choice(WAYS)), max(1, len(content))
        at = int(size * rng.random() ** 3)
        end = min(size, at + int(rng.integers(1, 40)))
        before, middle, after = content[:at], content[at:end], content[end:]
        if way == "cut":
            content = before
        elif way == "flip":
            content = (
                before + bytes(byte ^ (1 << int(rng.integers(8))) for byte in middle[:1]) + middle[1:] + after
            )
        elif way == "zero":
            content = before + bytes(len(middle)) + after
        elif way == "noise":
            content = before + rng.bytes(len(middle)) + after
        elif way == "insert":
            content = before + rng.bytes(len(middle)) + middle + after
        elif way == "repeat":
            content = before + middle * int(rng.integers(2, 5)) + after
        elif way == "swap":
            content = middle + before + after
        else:
            content = before + NUMBERS[rng.integers(len(NUMBERS))] + content[at + 4 :]
        ways.append(f"{way} at {at}")
    return content, ", ".join(ways)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
