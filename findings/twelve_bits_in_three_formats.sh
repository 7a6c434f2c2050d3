#!/usr/bin/env bash
# The 12-bit value 100 comes out of Pillow 13.0.0 as 100, 1600 or 1600: as stored from TIFF, scaled to 16 bits
# from PGM and JPEG 2000. A threshold or a range that fits one format does not fit the others.
# Seen: TIFF 100 4095; PGM 1600 65535; JPEG 2000 1600 65520.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 imagecodecs==2026.3.6 numpy==2.4.6
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import io

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

pixels = np.array([[100, 4095]] * 16, np.uint16).repeat(8, 1)


def read(content):
    return np.unique(np.asarray(Image.open(io.BytesIO(content)))).tolist()


tiff = io.BytesIO()
tifffile.imwrite(tiff, pixels)
pgm = f"P5\n{pixels.shape[1]} {pixels.shape[0]}\n4095\n".encode() + pixels.astype(">u2").tobytes()
found = {
    "TIFF": read(tiff.getvalue()),
    "PGM": read(pgm),
    "JPEG 2000": read(imagecodecs.jpeg2k_encode(pixels, bitspersample=12, level=0)),
}
print(found)
assert found == {"TIFF": [100, 4095], "PGM": [1600, 65535], "JPEG 2000": [1600, 65520]}
END
