"""Runs of networks that never trained, made in a moment, and scorers whose program is compiled once."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from daad_jax import config as config_lib
from daad_jax.config import Config, DataConfig
from daad_jax.method import state
from daad_jax.method.state import TrainState
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import run_data
from daad_jax.training.checkpoint import Checkpoints
from daad_jax.training.workdir import claim_workdir

SCORERS: dict[object, Scorer] = {}


def reused_scorer(config: Config, batch_size: int | None = None) -> Scorer:
    """A scorer whose program another test has compiled, if the configurations differ in no array."""
    data = config.data
    shape = (data.height, data.width, data.channels, data.bits, data.tiles)
    key = config_lib.to_json(replace(config, name="", data=DataConfig())), shape, batch_size
    if key not in SCORERS:
        SCORERS[key] = Scorer(config, batch_size)
    return SCORERS[key]


def make_run(workdir: Path, config: Config, networks: TrainState | None = None) -> Path:
    """A run of networks that never trained, calibrated as the training does; returns its folder."""
    with claim_workdir(workdir, config):
        splits = run_data.load_splits(workdir, config, typed_now=True)
        run_data.claim_data(workdir, config, splits, False)
    config = replace(config, data=splits.data)
    networks = (networks or state.create_state(config)).replace(step=np.int32(1))
    held_out = splits.calibration
    calibration = reused_scorer(config).calibrate(
        variables_of(networks), held_out.images, held_out.groups, held_out.grids
    )
    with closing(Checkpoints(workdir, create=True)) as checkpoints:
        checkpoints.save(networks, config, calibration)
    return workdir
