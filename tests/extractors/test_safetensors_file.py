"""Weights from a path or the hub; every mistake is one line that names the remedy."""

import sys
import types

import numpy as np
import pytest

from daad_jax.errors import UserError

numpy_files = pytest.importorskip(
    "safetensors.numpy", reason="safetensors is not installed: pip install .[features]"
)

from daad_jax.extractors.safetensors_file import Weights  # noqa: E402


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "net.safetensors"
    tensors = {
        "half": np.arange(6, dtype=np.float16).reshape(2, 3),
        "single": np.ones(4, np.float32),
        "whole": np.ones(4, np.int64),
    }
    numpy_files.save_file(tensors, path)
    return path


def open_weights(weights):
    return Weights(str(weights), "some_net", "owner/net")


def assert_refused(weights, words):
    with pytest.raises(UserError, match=words) as caught:
        open_weights(weights)
    assert "\n" not in str(caught.value)


def test_tensors_are_float32(file):
    weights = open_weights(file)
    half = weights.read("half", (2, 3))
    np.testing.assert_array_equal(half, [[0, 1, 2], [3, 4, 5]])
    assert half.dtype == np.float32


def test_a_wrong_tensor_is_named(file):
    weights = open_weights(file)
    with pytest.raises(UserError, match=r"the tensor 'bn1.bias' is missing; give the weights of some_net"):
        weights.read("bn1.bias", (4,))
    with pytest.raises(UserError, match=r"the tensor 'single' has shape \(4,\), not \(5,\)"):
        weights.read("single", (5,))
    with pytest.raises(UserError, match="the tensor 'whole' has the type I64; save it as float32"):
        weights.read("whole", (4,))


def test_paths_that_lead_nowhere(tmp_path):
    assert_refused("", "some_net comes without weights; set config.model.feature_weights .* owner/net")
    assert_refused(tmp_path / "none.safetensors", "no such file; give the path")
    assert_refused("one_word", "no such file; give the path")
    assert_refused("../up/there", "no such file; give the path")


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"\xff" * 64, (10**12).to_bytes(8, "little") + b"{}"])
def test_files_of_another_kind(tmp_path, content):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    assert_refused(path, "cannot be read as safetensors .* give a .safetensors file of some_net")


def test_a_hub_name_is_fetched(file, monkeypatch):
    asked = []

    def hf_hub_download(*arguments):
        asked.append(arguments)
        return str(file)

    hub = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    open_weights(file)
    assert not asked  # a path asks nobody
    assert open_weights("owner/net.v1").read("single", (4,)).sum() == 4
    assert asked == [("owner/net.v1", "model.safetensors")]


def test_without_a_connection_the_remedy_is_a_path(monkeypatch):
    def hf_hub_download(*_):
        raise ConnectionError("no route\nto host")

    hub = types.SimpleNamespace(hf_hub_download=hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert_refused(
        "owner/net", r"\(no route\); check .* or download its model.safetensors on another machine"
    )


def test_missing_packages_are_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert_refused("owner/net", "fetched by the package huggingface_hub; install it with: pip install")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert_refused(file, "some_net needs the package safetensors; install it with: pip install")
