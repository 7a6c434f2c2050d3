"""Prints the score and verdict of every image: python examples/score_onnx.py MODEL.onnx IMAGE..."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model = Path(sys.argv[1]) if sys.argv[2:] else sys.exit(__doc__)
if (sums := Path(f"{model}.sha256")).exists():
    for line in sums.read_text().splitlines():
        digest, name = line.split("  ", 1)
        if hashlib.sha256(model.with_name(name).read_bytes()).hexdigest() != digest:
            sys.exit(f"{model.with_name(name)}: damaged, {sums} has another checksum; export it again")
else:
    print(f"warning: {sums} is missing, so damage of the model may go unnoticed", file=sys.stderr)
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
if about["input_type"] != "uint8":
    sys.exit(f"this model takes {about['stored_type']} values of {about['range']}; docs/deploy.md says how")
width, height, threshold = int(about["width"]), int(about["height"]), float(about["threshold"])
for path in sys.argv[2:]:
    image = ImageOps.exif_transpose(Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF", "WEBP")))
    if image.mode not in ("L", "RGB") or "transparency" in image.info:
        sys.exit(f"{path}: pixels of mode {image.mode}; store 8 bit grey or RGB, without transparency")
    image = image.convert("L" if about["channels"] == "1" else "RGB")
    if about["fit"] != "resize" and image.size != (width, height):
        sys.exit(f"{path}: export again with --width {image.width} --height {image.height}")
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    [scores] = session.run(["score"], {"images": pixels.reshape(1, height, width, -1)})
    if not np.isfinite(scores[0]):
        sys.exit(f"{path}: the score {scores[0]} is not finite, so there is no verdict")
    print(path, f"{scores[0]:.6g}", "anomalous" if scores[0] > threshold else "normal", sep="\t")
