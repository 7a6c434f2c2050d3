"""A run of untrained networks for another size has the configuration of the run that it is like."""

from dataclasses import replace

import pytest

from benchmarks.resized_run import make_resized_run
from benchmarks.run_options import find_images
from daad_jax.errors import UserError
from daad_jax.training import checkpoint
from tests.reviewing.small_review import draw, make_reviewed_run


def test_only_the_size_and_the_weights_differ(tmp_path, monkeypatch):
    monkeypatch.setenv("DAAD_CACHE_DIR", str(tmp_path / "cache"))
    like, workdir = make_reviewed_run(tmp_path), tmp_path / "untrained-32px"
    images = find_images(draw(tmp_path / "parts", 12, 1))
    make_resized_run(like, 32, images, workdir)
    state, config, calibration = checkpoint.load(workdir)
    _, expected, _ = checkpoint.load(like)
    assert (config.data.height, config.data.width) == (32, 32)
    assert replace(config, name=expected.name, data=expected.data) == expected
    assert (int(state.step), len(calibration.scores)) == (0, 12)
    with pytest.raises(UserError, match="untrained-32px: has a run already; give a new folder"):
        make_resized_run(like, 64, images, workdir)
