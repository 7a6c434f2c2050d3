"""The server of the benchmarks: a real process, which ends with its block."""

import json
import os
import urllib.request

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("httpx2", reason="needs httpx2")
import httpx2 as httpx

from benchmarks import soak
from benchmarks.served_run import serving
from tests.reviewing.small_review import make_reviewed_run


@pytest.mark.slow
def test_a_server_answers_in_its_block_and_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device
    with serving(make_reviewed_run(tmp_path), ["--batch_size=1"]) as server:
        assert server.address == f"http://127.0.0.1:{server.port}"
        with urllib.request.urlopen(f"{server.address}/healthz") as answer:
            assert json.load(answer)["name"] == "bolts"
        soak.ask(server.address, sorted((tmp_path / "set").iterdir())[:2])
        with pytest.raises(httpx.HTTPStatusError, match="422"):
            soak.ask(server.address, [tmp_path / "bolts" / "config.json"])
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_server_that_does_not_start_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="the server ended before it was ready"), serving(tmp_path):
        pass
