"""`daad-jax serve` as a user runs it: a real process on a real port, ended by a real signal."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import daad_jax
from daad_jax.export import exporter
from daad_jax.training.loop import train
from tests.tiny import tiny_config

pytest.importorskip("uvicorn", reason="needs the extra serve")
ROOT = Path(__file__).parent.parent.parent
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "bolts"
    config = tiny_config(train__steps=2, train__batch_size=8)
    config.data.source = "memory"
    train(config, folder, data=IMAGES)
    return folder


def start(workdir, *options):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device
    return subprocess.Popen(
        [sys.executable, "-m", "daad_jax", "serve", f"--workdir={workdir}", *options],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_a_server_answers_and_ends_after_the_requests_that_have_begun(workdir):
    child = start(workdir, "--port=0")
    try:
        lines = []
        while not lines or "POST" not in lines[-1]:
            lines.append(child.stdout.readline())
            assert lines[-1], child.stderr.read()
        assert lines[-1].startswith("serving bolts, step 2, at http://127.0.0.1:")
        port = int(lines[-1].split(":")[-1].split()[0])
        body = png(IMAGES[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/score", body) as answer:
            found = json.load(answer)["images"][0]["score"]
        expected = daad_jax.Detector.load(workdir).score(body).scores[0]
        assert found == pytest.approx(expected, rel=1e-6)
        # Nobody is believed who says for whom he asks, and how.
        headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/", headers=headers)
        with urllib.request.urlopen(asked) as answer:
            page = answer.read().decode()
        assert f"curl --data-binary @part.png http://127.0.0.1:{port}/score" in page
        # Web pages of strangers are refused, whatever name leads here.
        for header, status in (({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)):
            asked = urllib.request.Request(f"http://127.0.0.1:{port}/score", body, header)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(asked)
            assert refused.value.code == status
            assert "start the server with --hosts=NAME" in json.load(refused.value)["error"]
        # Half of a request, a signal, the other half.
        with socket.create_connection(("127.0.0.1", port)) as late:
            head = f"POST /score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
            late.sendall(head.encode() + body[:10])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz"):  # the server has the first half
                child.send_signal(signal.SIGTERM)
            late.sendall(body[10:])
            answer = late.makefile("rb").read().decode()
        assert answer.startswith("HTTP/1.1 200")
        assert json.loads(answer.partition("\r\n\r\n")[2])["images"][0]["score"] == found
        assert child.wait(60) == 143
        assert child.stderr.read().splitlines() == ["python -m daad_jax serve: stopped by SIGTERM"]
    finally:
        child.kill()
        child.communicate()


def test_a_port_that_is_taken_is_one_line(workdir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child = start(workdir, f"--port={port}")
        _, error = child.communicate(timeout=120)
    assert child.returncode == 2
    assert error.splitlines() == [
        f"python -m daad_jax serve: error: --host=127.0.0.1 --port={port}: Address already in use; give "
        "another address or port"
    ]


def test_a_run_and_an_exported_file_exclude_each_other(workdir):
    child = start(workdir, "--export=x")
    _, error = child.communicate(timeout=120)
    assert child.returncode == 2
    assert "--workdir and --export exclude each other" in error


def test_a_name_that_is_none_is_one_line(workdir):
    child = start(workdir, "--port=0", "--hosts=parts.example.com,https://other.example")
    _, error = child.communicate(timeout=120)
    assert child.returncode == 2
    assert error.splitlines() == [
        "python -m daad_jax serve: error: --hosts=parts.example.com,https://other.example: "
        "'https://other.example' is no name of a host; give names such as parts.example.com, without http:// "
        "and port, and separate them by commas"
    ]


@pytest.mark.slow
def test_an_exported_file_is_served_without_its_run(workdir, tmp_path):
    expected = daad_jax.Detector.load(workdir).score(png(IMAGES[0])).scores[0]
    path = exporter.export(workdir, ["stablehlo"], output=tmp_path / "out")["stablehlo"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    child = subprocess.Popen(
        [sys.executable, "-m", "daad_jax", "serve", f"--export={path}", "--port=0"],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        lines = []
        while not lines or "POST" not in lines[-1]:
            lines.append(child.stdout.readline())
            assert lines[-1]
        port = int(lines[-1].split(":")[-1].split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/score", png(IMAGES[0])) as answer:
            assert json.load(answer)["images"][0]["score"] == pytest.approx(expected, rel=1e-4)
    finally:
        child.kill()
        child.communicate()
