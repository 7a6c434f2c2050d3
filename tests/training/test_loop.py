"""What ends a run or makes it speak up, in this process."""

import dataclasses
import json
import os
from contextlib import closing

import jax
import numpy as np
import pytest
from PIL import Image

from daad_jax.data import datasets
from daad_jax.errors import UserError
from daad_jax.method import state
from daad_jax.runtime.devices import DeviceGroup
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.selection import ranking
from daad_jax.selection.ranking import Choice
from daad_jax.training import checkpoint, loop
from daad_jax.training.feed import device_batches, gather_batch
from daad_jax.training.loop import train
from daad_jax.training.program import StepProgram
from daad_jax.training.workdir import claim_workdir
from daad_jax.validation import validate
from tests.tiny import tiny_config

CHOICES = [Choice("squared", 0.0, 1, "l2", 1.0, {"noise": 0.5})]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A tiny run on a folder of images."""
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    return tiny_config(
        data__source="folder",
        data__path=str(tmp_path / "images"),
        data__protocol="inspection",
        model__division=((1, 1, 1), (1, 1, 1)),
        train__steps=6,
        train__batch_size=8,
        train__log_every=1,
        train__checkpoint_every=1,
    )


def draw(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i}.png")


def test_what_never_trained_does_not_hold_its_workdir(config, tmp_path):
    images, run = config.data.path, tmp_path / "run"
    config.data.path = "mistaken"
    with pytest.raises(UserError, match="mistaken: this folder does not exist"):
        train(config, run)
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    config.data.path, config.train.steps = images, 1
    train(config, run)
    before = (run / "config.json").read_text()
    config.seed = 5
    with pytest.raises(UserError, match=r"another configuration \(config\.seed is 0 there, 5 here\)"):
        train(config, run)
    assert (run / "config.json").read_text() == before
    assert json.loads(before)["data"]["path"] == images


def test_a_finished_run_keeps_its_way_to_score(config, tmp_path, capsys):
    """Its checkpoint holds the calibration, so another `config.json` would tell of what never was."""
    config.train.devices = 1
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    run, config.train.steps = tmp_path / "run", 1
    train(config, run)
    before = (run / "config.json").read_text()
    assert (
        "warning: only 2 image(s) are held out, so the threshold may flag up to 0.333 of normal images; a "
        "rate of 0.05 needs 19" in (capsys.readouterr().out)
    )
    config.score.smoothing = 1.0
    with pytest.raises(UserError, match=r"trained to step 1 .*score\.smoothing is 0\.0 there, 1\.0 here"):
        train(config, run)
    assert (run / "config.json").read_text() == before
    config.train.steps = 2
    train(config, run)
    assert checkpoint.load(run)[1].score.smoothing == 1.0
    config.train.steps = 1
    train(config, run)
    assert "trained to step 2\n" in capsys.readouterr().out


def test_other_images_do_not_go_on_with_a_run(config, tmp_path, capsys):
    """Which images are held out depends on all of them: images that have trained would set the threshold."""
    config.train.devices, config.train.steps = 1, 2
    images = np.random.default_rng(0).integers(0, 256, (21, 16, 16, 3), np.uint8)
    draw(tmp_path / "images", images[:20])
    run = tmp_path / "run"
    train(config, run)
    held_out = datasets.load(config).calibration.names
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    config.train.steps = 4
    # One more image; another image under the name of one; one image less.
    more, first = tmp_path / "images" / "20.png", tmp_path / "images" / "0.png"
    original = first.read_bytes()
    for count, change in (
        (21, lambda: Image.fromarray(images[20]).save(more)),
        (20, lambda: (more.unlink(), Image.fromarray(images[20]).save(first))),
        (19, first.unlink),
    ):
        change()
        with pytest.raises(
            UserError, match=rf"trained on other images \(20 good images there, {count} now\)"
        ):
            train(config, run)
        assert "resumed" not in capsys.readouterr().out
    # The images have their old content; their times do not matter.
    first.write_bytes(original)
    os.utime(first, (1, 1))
    assert all(path.read_bytes() == before for path, before in files.items() if path.name == "data.json")
    assert train(config, run).step == 4
    assert datasets.load(config).calibration.names == held_out


def test_a_damaged_account_of_the_images_is_one_line(config, tmp_path):
    config.train.devices, config.train.steps = 1, 1
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    train(config, tmp_path / "run")
    (tmp_path / "run" / "data.json").write_text("{")
    with pytest.raises(UserError, match=r"data\.json: this file is damaged"):
        train(config, tmp_path / "run")
    (tmp_path / "run" / "data.json").unlink()
    assert train(config, tmp_path / "run").step == 1


def begun(config, run):
    """A workdir with a checkpoint of its last step, as far as its claim can tell."""
    with claim_workdir(run, config):
        (run / "checkpoints" / str(config.train.steps)).mkdir(parents=True)


def test_a_learning_rate_that_has_ended_does_not_begin_again(config, tmp_path):
    config.train.schedule = "cosine"
    begun(config, tmp_path / "run")
    config.train.steps += 1
    with pytest.raises(
        UserError, match=r"ends with its last step \(config\.train\.steps is 6 there, 7 here\)"
    ):
        train(config, tmp_path / "run")


def test_checkpoints_without_their_configuration_are_nobodys(config, tmp_path):
    begun(config, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    config.seed = 5
    with pytest.raises(UserError, match=r"has checkpoints and no config\.json"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_damaged_newest_checkpoint_is_trained_and_saved_again(config, tmp_path, capsys):
    config.train.devices = 1
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    run, config.train.steps = tmp_path / "run", 3
    train(config, run)
    whole = checkpoint.load(run)[0]
    for _ in range(2):
        for file in (run / "checkpoints" / "3").rglob("*"):
            if file.is_file():
                file.write_bytes(b"")
        train(config, run)
        assert "resumed from step 2" in capsys.readouterr().out
    again = checkpoint.load(run)[0]
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    kept = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert kept == ["1", "2", "3", "3.damaged", "3.damaged-2"]


def test_what_calibrates_was_held_out(config, tmp_path, monkeypatch):
    config.train.devices = 1
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8))
    config.train.steps = 1
    train(config, tmp_path / "run")
    networks, _, calibration = checkpoint.load(tmp_path / "run")
    splits = datasets.load(config)
    assert len(splits.calibration) == 4
    expected = Scorer(config).calibrate(variables_of(networks), splits.calibration.images)
    assert calibration == expected
    # Nor does the choice of a way to score see any other image.
    monkeypatch.setattr(datasets, "load", lambda *_: dataclasses.replace(splits, train=None, test=None))
    held = []
    monkeypatch.setattr(ranking, "rank_choices", lambda state, config, images: held.append(images) or CHOICES)
    ranking.select_recipe([tmp_path / "run"])
    np.testing.assert_array_equal(held[0], splits.calibration.images[:])


def test_a_seed_reaches_the_networks_the_batches_and_what_is_held_out(config, tmp_path):
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8))
    config.train.steps, config.train.learning_rate = 1, 1e-30  # the networks stay as they begin
    config.train.devices = 1
    kernels, names, batches = [], [], []
    for config.seed in (0, 1):
        kernels.append(state.create_state(config).generator.params["stem"]["kernel"])
        splits = datasets.load(config)
        names.append(splits.calibration.names)
        numbered = np.arange(36, dtype=np.uint8).reshape(36, 1, 1, 1)
        split = dataclasses.replace(splits.train, images=np.broadcast_to(numbered, (36, 16, 16, 3)))
        with closing(device_batches(config, DeviceGroup(jax.devices()[:1]), split, 0)) as ready:
            batches.append(np.asarray(next(ready)))
    assert not np.array_equal(*kernels)
    assert names[0] != names[1]
    assert not np.array_equal(*batches)
    train(config, tmp_path / "run")
    trained = checkpoint.load(tmp_path / "run")[0].generator.params["stem"]["kernel"]
    np.testing.assert_allclose(trained, kernels[1])


def test_batches_that_lie_on_the_device_go_on_where_a_run_resumes(config, tmp_path, monkeypatch):
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8))
    split, mapped, found = datasets.load(config).train, DeviceGroup(jax.devices()[:1]), []
    for holds in (False, True):
        monkeypatch.setattr(DeviceGroup, "fits_resident", lambda self, size, holds=holds: holds)
        with closing(device_batches(config, mapped, split, 3)) as ready:
            found.append([np.asarray(next(ready)) for _ in range(2)])
    np.testing.assert_array_equal(*found)


def test_a_signal_need_not_wait_for_many_steps(config, tmp_path, monkeypatch):
    """JAX would start some thirty of them before the first is done."""
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8))
    config.data.height = config.data.width = 64
    config.model.base_width, config.loss.adversarial, config.loss.alignment = 16, 0.0, 0.0
    config.score.gamma, config.train.devices = 1.0, 1
    config.train.steps = config.train.log_every = config.train.checkpoint_every = 12
    started, ahead = [], []

    class Recording(StepProgram):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            call = self._call

            def recorded(state, batch):
                state, metrics = call(state, batch)
                started.append(metrics["loss"])
                return state, metrics

            self._call = recorded

    def agreed_signal(received, meeting):
        ahead.append(sum(not loss.is_ready() for loss in started))
        return 0

    monkeypatch.setattr(loop, "StepProgram", Recording)
    monkeypatch.setattr(loop.processes, "agreed_signal", agreed_signal)
    train(config, tmp_path / "run")
    assert len(ahead) == 12
    assert max(ahead) < 3


def test_one_process_at_a_time_trains_a_workdir(config, tmp_path):
    config.train.devices = 1
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    run, config.train.steps = tmp_path / "run", 1
    with (
        claim_workdir(run, config),
        pytest.raises(UserError, match=f"{run}: another process trains here"),
    ):
        train(config, run)
    assert not (run / "checkpoints").exists()
    train(config, run)


def test_a_run_that_diverges_saves_nothing_that_is_not_finite(config, tmp_path):
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    config.train.learning_rate, config.train.devices = 1e30, 1
    config.loss.adversarial, config.loss.alignment, config.score.gamma = 0.0, 0.0, 1.0
    rest = "no checkpoint was saved before; try a smaller config.train.learning_rate in a new --workdir"
    for name, every, reason in (
        ("one", 6, "step 2: grad_norm is not finite"),
        ("two", 1, "step 1: the calibration is impossible (the mean of reconstruction is nan, which is not "
                   "finite), so this step is not saved"),
    ):  # fmt: skip
        config.train.checkpoint_every = every
        with pytest.raises(UserError) as error:
            train(config, tmp_path / name)
        assert str(error.value) == f"{reason}; {rest}"
        assert list((tmp_path / name / "checkpoints").iterdir()) == []


def test_running_statistics_that_are_not_finite_are_not_saved(config, tmp_path, monkeypatch):
    """A step uses the statistics of its batch, so no metric shows them."""
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    config.train.devices = 1
    fetch = DeviceGroup.fetch

    def damaged(self, tree):
        host = fetch(self, tree)
        if isinstance(host, state.TrainState) and host.step == 3:
            statistics = dict(host.generator.batch_stats)
            statistics["stem_norm"] = statistics["stem_norm"] | {"var": np.full(4, np.nan, np.float32)}
            host = host.replace(generator=host.generator.replace(batch_stats=statistics))
        return host

    monkeypatch.setattr(DeviceGroup, "fetch", damaged)
    run = tmp_path / "run"
    with pytest.raises(UserError) as error:
        train(config, run)
    assert str(error.value) == (
        "step 3: generator/batch_stats/stem_norm/var is not finite, so this step is not saved; the last good "
        f"checkpoint is {run / 'checkpoints' / '2'}; try a smaller config.train.learning_rate in a new "
        "--workdir"
    )
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1", "2"]


def test_a_memory_that_says_one_thing_is_warned_of(config, tmp_path, capsys):
    # All images are the same, so all queries are.
    draw(tmp_path / "images", np.repeat(np.arange(768, dtype=np.uint8).reshape(1, 16, 16, 3), 20, 0))
    train(config, tmp_path / "run")
    assert "warning: memory1 has collapsed: 1 of its 3 items" in capsys.readouterr().out


@pytest.mark.slow
def test_a_memory_in_use_is_not_warned_of(config, tmp_path, capsys):
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    config.model.division = ((4, 4, 1), (8, 8, 1))
    train(config, tmp_path / "run")
    assert "collapsed" not in capsys.readouterr().out


@pytest.mark.slow
def test_several_steps_a_call_train_the_same_run(config, tmp_path):
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    config.train.log_every = config.train.checkpoint_every = 2
    config.train.max_to_keep = 1
    train(config, tmp_path / "one")
    config.train.steps_per_call = 2
    train(config, tmp_path / "two")
    (one, _, _), (two, _, _) = (checkpoint.load(tmp_path / name) for name in ("one", "two"))
    assert one.step == two.step == 6
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, two)
    logged = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert [len(lines) for lines in logged] == [3, 3]
    for lines in zip(*logged):
        a, b = (json.loads(line)["reconstruction"] for line in lines)
        np.testing.assert_allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize(
    ("devices", "at_once"),
    [pytest.param(1, 1, marks=pytest.mark.slow), pytest.param(8, 1, marks=pytest.mark.slow), (8, 2)],
)
def test_images_that_lie_on_the_device_train_the_same_run(config, tmp_path, monkeypatch, devices, at_once):
    draw(tmp_path / "images", np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), np.uint8))
    config.data.flip_horizontal, config.data.shift = True, 2
    config.train.devices, config.train.steps_per_call, config.train.steps = devices, at_once, 4
    config.train.log_every = config.train.checkpoint_every = 2
    train(config, tmp_path / "host")
    monkeypatch.setattr(DeviceGroup, "fits_resident", lambda self, size: size == 18 * 16 * 16 * 3)
    traced = []
    monkeypatch.setattr(
        "daad_jax.training.feed.gather_batch", lambda *a, **k: traced.append(1) or gather_batch(*a, **k)
    )
    train(config, tmp_path / "device")
    assert traced
    (host, _, _), (device, _, _) = (checkpoint.load(tmp_path / name) for name in ("host", "device"))
    jax.tree.map(np.testing.assert_array_equal, host, device)


def test_steps_per_call_divides_what_is_done_every_so_many_steps(config, tmp_path):
    config.train.steps_per_call = 4
    with pytest.raises(UserError, match=r"train.steps = 6: must be a multiple of train.steps_per_call = 4"):
        validate(config)
