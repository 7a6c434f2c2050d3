"""A cell has a result only if all of its figures are numbers."""

import math

import pytest

from daad_jax.errors import UserError
from reproduction import experiment
from reproduction.cells import TABLES, make_cell


def test_a_figure_that_is_not_finite_is_no_result(tmp_path, monkeypatch):
    cell = make_cell(TABLES["mvtec_ad"], "tile", "mean_intensity", None, smoke=True)
    measured = {"step": 0, "images": {}, "figures": {"auroc": math.nan}, "images_per_s": 0.0}
    monkeypatch.setattr(experiment, "_measure_baseline", lambda cell: measured)
    (tmp_path / experiment.TIME_FILE).write_bytes(b"\xff no number")
    with pytest.raises(UserError, match="auroc is nan, so this cell has no result"):
        experiment.run_cell(cell, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [experiment.TIME_FILE]
    assert 0 <= float((tmp_path / experiment.TIME_FILE).read_text()) < 60
