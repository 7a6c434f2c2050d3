#!/usr/bin/env bash
# faiss-cpu 1.15.1: the variable distance_compute_blas_threshold counts the numbers of all queries together. In 1.12.0
# it counted queries, as faiss's wiki says. Programs set it to get exact distances from IndexFlatL2 for batches up to a
# size, for instance 1000. The same line now makes nearly every batch inexact, without a message: a vector is no
# longer at distance 0 from itself.
# With the default, the distance of a query depends on its batch: of queries of 1536 numbers, up to 83 are exact.
# Seen, the largest squared distance of a vector from itself, by the size of the batch:
#   1.12.0, default {19: 0.0, 83: 0.078125, 84: 0.078125, 999: 0.078125}, 1000 {19: 0.0, 83: 0.0, 84: 0.0, 999: 0.0}
#   1.15.1, default {19: 0.0, 83: 0.0, 84: 0.078125, 999: 0.078125},
#           1000 {19: 0.03125, 83: 0.078125, 84: 0.078125, 999: 0.078125}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip "$1" -q --disable-pip-version-check "${@:2}"; }
pip install faiss-cpu==1.15.1 numpy==2.4.6
pip install --no-deps --target "$folder/before" faiss-cpu==1.12.0
cat > "$folder/measure.py" <<'END'
import sys

import faiss
import numpy as np

# Features as PatchCore has them: 1536 numbers, none below 0.
random = np.random.default_rng(0)
items = (10 * np.maximum(random.normal(0.3, 1, (2000, 1536)), 0)).astype(np.float32)
index = faiss.IndexFlatL2(items.shape[1])
index.add(items)


def measure():
    """The largest distance of a vector from itself, by the number of queries."""
    return {n: float(np.abs(index.search(items[:n], 1)[0]).max()) for n in (19, 83, 84, 999)}


default, value = measure(), faiss.cvar.distance_compute_blas_threshold
faiss.cvar.distance_compute_blas_threshold = 1000
chosen = measure()
print(f"faiss {faiss.__version__}: default ({value}) {default}, 1000 {chosen}")
assert faiss.__version__ == sys.argv[1]
if sys.argv[1] == "1.12.0":
    assert default[19] == 0 < default[83]
    assert set(chosen.values()) == {0}
else:
    assert default[83] == 0 < default[84]
    assert min(chosen.values()) > 0
END
cd "$folder"
PYTHONPATH="$folder/before" "$folder/venv/bin/python" measure.py 1.12.0
"$folder/venv/bin/python" measure.py 1.15.1
