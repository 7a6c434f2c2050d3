#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 (tensorstore 0.1.86, jax 0.10.2): a disk that is full while a checkpoint is saved raises no
# OSError. It is a ValueError whose text begins with RESOURCE_EXHAUSTED, the word of XLA for a device without memory, so
# programs that look for this word tell their users to choose a smaller batch. The text ends with the number of ENOSPC.
# Seen on a disk of 300 KiB (a tmpfs in a namespace of its own) with an array of 800 kB:
# ValueError: RESOURCE_EXHAUSTED: Error writing "a/0" in OCDBT database at local file "...": ... No space left on device
# [os_error_code='28']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check orbax-checkpoint==0.12.8 tensorstore==0.1.86 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
mkdir "$folder/disk"
cat > "$folder/save.py" <<'END'
import errno
import sys

import numpy as np
import orbax.checkpoint as ocp

saver = ocp.StandardCheckpointer()
array = np.random.default_rng(0).random(200_000).astype(np.float32)
try:
    saver.save(f"{sys.argv[1]}/1", {"a": array})
    saver.wait_until_finished()
except Exception as error:
    print(type(error).__name__, str(error)[:60], "...", str(error)[-60:])
    assert type(error) is ValueError and not isinstance(error, OSError)
    assert str(error).startswith("RESOURCE_EXHAUSTED")
    assert f"os_error_code='{errno.ENOSPC}'" in str(error)
else:
    raise SystemExit("the disk was not full")
END
unshare --user --map-root-user --mount sh -c \
  'mount -t tmpfs -o size=300k none "$1/disk" && "$1/venv/bin/python" "$1/save.py" "$1/disk" 2>"$1/log"' sh "$folder" ||
  { tail -5 "$folder/log" >&2; exit 1; }
