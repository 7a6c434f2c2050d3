"""A checkpoint gives back the saved values to the bit, or the command names it and does not use it."""

import json
import shutil
from contextlib import closing
from dataclasses import replace

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from daad_jax import config as config_lib
from daad_jax.data.integrity import Damaged
from daad_jax.errors import UserError
from daad_jax.method.state import create_state
from daad_jax.scoring.anomaly_score import Calibration, Unit
from daad_jax.training import checkpoint, checksums
from tests.tiny import filled_state, tiny_config, tiny_feature_config

CALIBRATION = Calibration(*[Unit(1.5, 0.5)] * 4, 2.0, 1.0, 0.05, (0.5, 1.25), (2, 2))

# TensorStore calls back into an event loop that Orbax has closed after an error.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def state_of(config, step):
    """Another state at every step."""
    filled = filled_state(config) if config.uses_coreset else create_state(config)
    changed = jax.tree.map(lambda leaf: leaf + leaf.dtype.type(step), filled)
    return changed.replace(step=np.int32(step))


def save(workdir, config, steps=(1, 2), calibration=CALIBRATION):
    with closing(checkpoint.Checkpoints(workdir, create=True)) as checkpoints:
        for step in steps:
            checkpoints.save(state_of(config, step), config, replace(calibration, heat_peak=float(step)))


def save_numbered(workdir, state, config, calibration):
    """Saves as format 2 did: leaves under their numbers, and no checksums."""
    tree = {f"{i:05d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    about = {"format": 2, "config": config_lib.to_json(config), "calibration": calibration.to_json()}
    with closing(ocp.CheckpointManager((workdir / "checkpoints").resolve())) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), about=ocp.args.JsonSave(about))
        manager.save(int(state.step), args=args)
        manager.wait_until_finished()


def assert_is_step(loaded, config, step):
    """Whether the loaded values equal the values that `save` saved at a step, to the bit."""
    state, found_config, calibration = loaded
    expected = state_of(config, step)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected)):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    assert config_lib.to_json(found_config) == config_lib.to_json(config)
    assert calibration == replace(CALIBRATION, heat_peak=float(step))


@pytest.fixture
def config():
    return tiny_feature_config(data__range="type", data__bits=8)


@pytest.mark.parametrize("make", [tiny_config, tiny_feature_config])
def test_a_checkpoint_gives_back_what_was_saved(tmp_path, capsys, make):
    config = make(data__range="type", data__bits=8)
    save(tmp_path, config)
    assert_is_step(checkpoint.load(tmp_path), config, 2)
    assert capsys.readouterr().err == ""


def test_leaves_have_the_names_of_their_paths(tmp_path):
    """Orbax alone, without this package, gives the leaves under these names."""
    config = tiny_config()
    save(tmp_path, config, [3])
    state, folder = state_of(config, 3), (tmp_path / "checkpoints" / "3").resolve()
    with closing(ocp.StandardCheckpointer()) as checkpointer:
        tree = checkpointer.restore(folder / "state")
    np.testing.assert_array_equal(
        tree["generator"]["params"]["stem"]["kernel"], state.generator.params["stem"]["kernel"]
    )
    np.testing.assert_array_equal(
        tree["discriminator"]["opt_state"]["0"]["mu"]["classifier"]["kernel"],
        state.discriminator.opt_state[0].mu["classifier"]["kernel"],
    )
    assert tree["step"] == 3
    about = json.loads((folder / "about" / "metadata").read_text())
    assert set(about["leaves"]) == set(checksums.name_leaves(tree))
    kernel = about["leaves"]["generator/params/stem/kernel"]
    assert (kernel["type"], kernel["shape"]) == ("float32", [3, 3, 3, 4])
    assert (about["format"], about["step"]) == (3, 3)


def test_no_flipped_bit_changes_what_is_loaded(tmp_path, config, capsys):
    """Thirty bits in files chosen by seed; `tests/faults/test_bytes.py` flips a thousand."""
    save(tmp_path, config)
    files = sorted(path for path in (tmp_path / "checkpoints" / "2").rglob("*") if path.stat().st_size)
    files, rng = [path for path in files if path.is_file()], np.random.default_rng(0)
    noticed = 0
    for i in range(30):
        file = files[i % len(files)]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        loaded = checkpoint.load(tmp_path)
        said = capsys.readouterr().err
        file.write_bytes(whole)
        assert_is_step(loaded, config, 1 if said else 2)
        noticed += bool(said)
        if said:
            assert said.startswith(f"warning: checkpoint {tmp_path / 'checkpoints' / '2'} cannot be read (")
            assert said.count("\n") == 1
    assert noticed >= 10


def test_every_change_of_a_leaf_is_noticed():
    leaves = {
        "a": np.arange(3000, dtype=np.float32).reshape(30, 100),
        "b": np.int32(5),
        "c": np.zeros((0, 4)),
    }
    described = json.loads(json.dumps(checksums.describe_leaves(leaves)[0]))

    def difference(others):
        return checksums.find_difference(checksums.describe_leaves(others)[0], described)

    assert difference(leaves) == ""
    a = leaves["a"]
    swapped = a.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    flipped = a.copy()
    flipped.view(np.uint8)[17, 399] ^= 128
    for other in (swapped, flipped, a.reshape(100, 30), a.view(np.int32), a.astype(np.float64), a[:-1], -a):
        assert difference(leaves | {"a": other}) == "a"
    assert difference(leaves | {"b": np.int32(4)}) == "b"
    assert difference(leaves | {"d": np.int32(4)}) == "d"
    assert difference({"a": a, "b": np.int32(5)}) == "c"


def test_values_that_are_not_finite_are_found(monkeypatch):
    monkeypatch.setattr(checksums, "CHUNK_BYTES", 400)
    largest = np.finfo(np.float32).max
    sound = {"a": np.full(1000, largest), "b": np.arange(5), "c": np.zeros(0), "d": np.float32(-1)}
    assert checksums.describe_leaves(sound)[1] == ""  # also where their sum overflows
    for value in (np.nan, np.inf, -np.inf):
        for place in (0, 99, 100, 999):
            bad = np.full(1000, largest, np.float32)
            bad[place] = value
            assert checksums.describe_leaves(sound | {"e": bad, "f": bad})[1] == "e"
    both = np.array([np.inf, -np.inf], np.float32)
    assert checksums.describe_leaves({"a": both})[1] == "a"


def test_checksums_are_those_of_the_bytes_in_portions(monkeypatch):
    import zlib

    array = np.arange(1000, dtype=np.float32)
    content = array.tobytes()
    assert checksums.describe_leaves({"a": array})[0]["a"]["crc32"] == [zlib.crc32(content)]
    monkeypatch.setattr(checksums, "CHUNK_BYTES", 1500)
    expected = [zlib.crc32(content[i : i + 1500]) for i in (0, 1500, 3000)]
    for same in (array, np.asfortranarray(array.reshape(10, 100)), np.repeat(array, 2)[::2]):
        assert checksums.describe_leaves({"a": same})[0]["a"]["crc32"] == expected


def test_every_flipped_bit_beside_the_state_is_noticed(tmp_path, config):
    """Of configuration, calibration, step, names and checksums, also where JSON stays JSON."""
    save(tmp_path, config, [2])
    text = (tmp_path / "checkpoints" / "2" / "about" / "metadata").read_bytes()
    about = json.loads(text)
    assert checkpoint._verify_about(about, 2)
    rng, noticed = np.random.default_rng(0), 0
    place = text.index(b'"format": 3') + 10
    for position in [place, *rng.integers(0, len(text), 2000).tolist()]:
        for bit in range(8) if position == place else [int(rng.integers(8))]:
            damaged = bytearray(text)
            damaged[position] ^= 1 << bit
            try:
                changed = json.loads(damaged)
            except ValueError:
                continue
            if changed == about:
                continue
            noticed += 1
            with pytest.raises((Damaged, UserError)):
                checkpoint._verify_about(changed, 2)
    assert noticed > 1000


def swap(folder, first, second):
    (folder / first).rename(folder / "kept")
    (folder / second).rename(folder / first)
    (folder / "kept").rename(folder / second)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("2", "3", "damaged: it is the checkpoint of step 2"),
        ("2/state", "3/state", "damaged: it has the state of step 2)"),
        ("2/about", "3/about", "damaged: it is the checkpoint of step 2"),
    ],
)
def test_parts_of_other_steps_are_not_used(tmp_path, config, capsys, first, second, reason):
    save(tmp_path, config, [1, 2, 3])
    folder = tmp_path / "checkpoints"
    swap(folder, first, second)
    assert_is_step(checkpoint.load(tmp_path), config, 1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"warning: checkpoint {folder / '3'} cannot be read ({reason}")
    assert lines[1].startswith(f"warning: checkpoint {folder / '2'} cannot be read (damaged: ")


def test_the_calibration_of_another_run_is_not_used(tmp_path, config, capsys):
    """Of the same configuration and step, with another seed, say."""
    save(tmp_path / "one", config)
    other = state_of(config, 2)
    other.features["memories"][1]["items"][7, 3] += 1
    with closing(checkpoint.Checkpoints(tmp_path / "two", create=True)) as checkpoints:
        checkpoints.save(other, config, replace(CALIBRATION, heat_peak=2.0))
    about = "checkpoints/2/about"
    shutil.rmtree(tmp_path / "one" / about)
    shutil.copytree(tmp_path / "two" / about, tmp_path / "one" / about)
    assert_is_step(checkpoint.load(tmp_path / "one"), config, 1)
    assert "damaged: features/memories/1/items has changed since it was saved" in capsys.readouterr().err


@pytest.mark.parametrize("make", [tiny_config, tiny_feature_config])
def test_a_checkpoint_of_the_older_version_loads_with_a_line(tmp_path, capsys, make):
    config = make(data__range="type", data__bits=8)
    save_numbered(tmp_path, state_of(config, 2), config, replace(CALIBRATION, heat_peak=2.0))
    assert_is_step(checkpoint.load(tmp_path), config, 2)
    assert capsys.readouterr().err == (
        f"warning: checkpoint {tmp_path / 'checkpoints' / '2'} was saved by an older version of daad_jax "
        "without checksums, so damage may go unnoticed\n"
    )


def test_a_run_of_the_older_version_goes_on(tmp_path, config, capsys):
    save_numbered(tmp_path, state_of(config, 1), config, replace(CALIBRATION, heat_peak=1.0))
    save(tmp_path, config, [2])
    assert_is_step(checkpoint.load(tmp_path), config, 2)
    assert not capsys.readouterr().err
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "state")
    assert_is_step(checkpoint.load(tmp_path), config, 1)


NAN = float("nan")


@pytest.mark.parametrize(
    ("calibration", "reason"),
    [
        ({"heat_peak": 0.0}, "the stored calibration is damaged: heat_peak is 0.0"),
        ({"gamma": 7.0}, "the stored calibration is damaged: gamma is 7.0"),
        ({"scores": (NAN, NAN)}, "the stored calibration is damaged: a score of a held-out image"),
        ({"alignment": Unit(1.0, NAN)}, "the stored calibration is damaged: the standard deviation of alig"),
    ],
)
def test_an_impossible_calibration_is_not_loaded(tmp_path, config, capsys, calibration, reason):
    save(tmp_path, config, [1])
    save_numbered(tmp_path, state_of(config, 2), config, replace(CALIBRATION, **calibration))
    assert_is_step(checkpoint.load(tmp_path), config, 1)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"2 cannot be read ({reason}" in said


def test_a_state_without_checksums_must_be_finite(tmp_path, config, capsys):
    state = state_of(config, 2)
    state.features["memories"][0]["mean"][5] = np.inf
    save_numbered(tmp_path, state, config, CALIBRATION)
    with pytest.raises(
        UserError, match=r"no checkpoint can be read; .* damaged: features/memories/0/mean is not"
    ):
        checkpoint.load(tmp_path)


def test_a_state_that_is_not_finite_is_not_saved(tmp_path, config):
    save(tmp_path, config)
    state = state_of(config, 3)
    state.features["memories"][0]["transform"][0, 0] = NAN
    state.features["memories"][1]["unit"] = np.float32(np.inf)
    with closing(checkpoint.Checkpoints(tmp_path)) as checkpoints:
        with pytest.raises(UserError) as error:
            checkpoints.save(state, config, CALIBRATION)
        assert str(error.value) == (
            "step 3: features/memories/0/transform is not finite, so this step is not saved; the last good "
            f"checkpoint is {tmp_path / 'checkpoints' / '2'}; in a new --workdir, try other images (are the "
            "held-out ones copies of others?), or other weights with config.model.feature_weights"
        )
        with pytest.raises(UserError, match=r"impossible \(heat_peak is nan.*, so this step is not saved"):
            checkpoints.save(state_of(config, 3), config, replace(CALIBRATION, heat_peak=NAN))
        assert checkpoints.steps == [1, 2]
    assert_is_step(checkpoint.load(tmp_path), config, 2)
