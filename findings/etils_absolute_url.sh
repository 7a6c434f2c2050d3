#!/usr/bin/env bash
# etils 1.15.0: epath.Path('gs://...') answers absolute() and resolve() with a local path below the current
# folder, also if the path is absolute in every sense. A program that stores absolute paths loses the bucket.
# Seen: PosixGPath('<current folder>/gs:/bucket/dir') twice; str(path) alone keeps gs://bucket/dir.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "etils[epath]==1.15.0"
cd "$folder" && "$folder/venv/bin/python" - <<'END'
import os

from etils import epath

path = epath.Path("gs://bucket/dir")
found = {"str": str(path), "absolute": str(path.absolute()), "resolve": str(path.resolve())}
print(found)
lost = f"{os.path.realpath(os.getcwd())}/gs:/bucket/dir"
assert found == {"str": "gs://bucket/dir", "absolute": lost, "resolve": lost}
END
