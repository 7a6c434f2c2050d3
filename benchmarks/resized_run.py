"""Makes a run of untrained networks for images of another size, to measure speed.

    python -m benchmarks untrained --like RUN --size 256 --images FOLDER --workdir UNTRAINED

The configuration is that of RUN, a run on pixels, with another size. The weights are random, because weights
change no time. Some images of FOLDER calibrate the run, so that its scores are in the usual range.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from benchmarks.run_options import find_images
from daad_jax.data.images import prepare
from daad_jax.data.inputs import open_image
from daad_jax.errors import UserError
from daad_jax.method import state
from daad_jax.scoring.scorer import Scorer, variables_of
from daad_jax.training import checkpoint

HELD_OUT = 48  # images that calibrate


def make_resized_run(like: Path, size: int, images: Sequence[Path], workdir: Path) -> None:
    """Writes a run of untrained networks into a new folder.

    Args:
        like: the folder of a run on pixels.
        size: the height and the width of the images of the new run, in pixels.
        images: image files. The first 48 calibrate the run.
        workdir: a folder without a run.

    Raises:
        UserError: `like` has no run on pixels, `workdir` has a run, or an image cannot be used.
    """
    _, config, _ = checkpoint.load(like)
    if config.model.features or config.data.tiles:
        raise UserError(f"{like}: reads features or tiles; give a run on pixels, without tiles, as --like")
    if (workdir / checkpoint.CHECKPOINTS).exists():
        raise UserError(f"{workdir}: has a run already; give a new folder")
    config = replace(config, name=workdir.name, data=replace(config.data, height=size, width=size))
    networks, data = state.create_state(config), config.data
    held_out = np.stack(
        [prepare(open_image(path, "", data.max_pixels)[0], data, str(path)) for path in images[:HELD_OUT]]
    )
    calibration = Scorer(config).calibrate(variables_of(networks), held_out)
    with closing(checkpoint.Checkpoints(workdir, create=True)) as checkpoints:
        checkpoints.save(jax.device_get(networks), config, calibration)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks untrained",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--like", type=Path, required=True, help="the folder of a trained run on pixels")
    parser.add_argument("--size", type=int, required=True, help="height and width of the images, in pixels")
    parser.add_argument("--images", type=Path, required=True, help="a folder of images, with sub-folders")
    parser.add_argument("--workdir", type=Path, required=True, help="the folder for the new run")
    given = parser.parse_args(arguments)
    make_resized_run(given.like, given.size, find_images(given.images), given.workdir)
    print(f"wrote {given.workdir}: untrained networks for {given.size} x {given.size} pixels")
