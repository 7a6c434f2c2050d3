"""Prints the score and verdict of every image: python examples/score_stablehlo.py MODEL.stablehlo IMAGE..."""

import hashlib
import json
import sys
from pathlib import Path

import jax.export
import numpy as np
from PIL import Image, ImageOps

model = Path(sys.argv[1]) if sys.argv[2:] else sys.exit(__doc__)
if (sums := Path(f"{model}.sha256")).exists():
    for line in sums.read_text().splitlines():
        digest, name = line.split("  ", 1)
        if hashlib.sha256(model.with_name(name).read_bytes()).hexdigest() != digest:
            sys.exit(f"{model.with_name(name)}: damaged, {sums} has another checksum; export it again")
else:
    print(f"warning: {sums} is missing, so damage of the model may go unnoticed", file=sys.stderr)
about = json.loads(model.with_suffix(".json").read_text())
if about["input_type"] != "uint8":
    sys.exit(f"this model takes {about['stored_type']} values of {about['range']}; docs/deploy.md says how")
score = jax.jit(jax.export.deserialize(bytearray(model.read_bytes())).call)
width, height = about["width"], about["height"]
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF", "WEBP")))
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        sys.exit(f"{path}: pixels of mode {image.mode}; store 8 bit grey or RGB, without transparency")
    image = image.convert("L" if about["channels"] == 1 else "RGB")
    if about["fit"] != "resize" and image.size != (width, height):
        sys.exit(f"{path}: export again with --width {image.width} --height {image.height}")
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    value = float(score(pixels.reshape(1, height, width, -1))["score"][0])
    if not np.isfinite(value):
        sys.exit(f"{path}: the score {value} is not finite, so there is no verdict")
    print(path, f"{value:.6g}", "anomalous" if value > about["threshold"] else "normal", sep="\t")
