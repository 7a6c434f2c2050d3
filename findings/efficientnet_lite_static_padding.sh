#!/usr/bin/env bash
# efficientnet_lite_pytorch 0.1.0 (torch 2.13.0): padding is fixed when the network is built, for the size that trained
# it (224, 240 and 260 pixels for Lite0, 1 and 2). Images of another size pass without a word, but their features are
# not those of the TensorFlow networks that the weights come from, whose SAME padding depends on the size.
# Seen with equal random weights, built for its own size and for any size (image_size=None): at 224 pixels, Lite1 and
# Lite2 differ by about half of the largest feature; at 240 pixels, Lite0 gives 7 x 7 places instead of 8 x 8.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check efficientnet_lite_pytorch==0.1.0 torch==2.13.0 numpy==2.4.6
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import torch
from efficientnet_lite_pytorch import EfficientNet

torch.manual_seed(0)


def compare(name, size):
    fixed = EfficientNet.from_name(name).eval()
    free = EfficientNet.from_name(name, image_size=None).eval()
    free.load_state_dict(fixed.state_dict())
    with torch.no_grad():
        images = torch.rand(1, 3, size, size)
        a, b = fixed.extract_features(images), free.extract_features(images)
    difference = float((a - b).abs().max() / b.abs().max()) if a.shape == b.shape else None
    print(name, size, tuple(a.shape[2:]), tuple(b.shape[2:]), difference)
    return tuple(a.shape[2:]), tuple(b.shape[2:]), difference


assert compare("efficientnet-lite0", 224) == ((7, 7), (7, 7), 0)
assert compare("efficientnet-lite0", 240) == ((7, 7), (8, 8), None)
assert compare("efficientnet-lite1", 224)[2] > 0.1
assert compare("efficientnet-lite2", 224)[2] > 0.1
assert compare("efficientnet-lite2", 260) == ((9, 9), (9, 9), 0)
END
