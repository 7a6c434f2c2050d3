#!/usr/bin/env bash
# Pillow 13.0.0 turns MinIsWhite TIFF files round if they have 8 bits, but not if they have 16.
# A mixed set of such files has bright and dark exchanged between the two.
# Seen: 8 bit: 0 1 2 250 -> 255 254 253 5. 16 bit: 0 1 2 250 -> 0 1 2 250.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check pillow==13.0.0 tifffile==2026.3.3 numpy==2.4.6
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import io

import numpy as np
import tifffile
from PIL import Image


def read(dtype):
    file = io.BytesIO()
    tifffile.imwrite(file, np.array([[0, 1, 2, 250]], dtype), photometric="miniswhite")
    return np.asarray(Image.open(io.BytesIO(file.getvalue()))).ravel().tolist()


found = {"8 bit": read(np.uint8), "16 bit": read(np.uint16)}
print(found)
assert found == {"8 bit": [255, 254, 253, 5], "16 bit": [0, 1, 2, 250]}
END
