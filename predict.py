"""python predict.py --workdir DIR IMAGE_OR_FOLDER...: scores, verdicts and heat maps of new images."""

import sys
from pathlib import Path

from absl import flags

from daad_jax import cli
from daad_jax.errors import UserError

WORKDIR = cli.define_workdir("the trained run, as train.py printed it")
OUT = flags.DEFINE_string("out", None, "folder for the results (default: WORKDIR/predictions)")
OVERLAYS = flags.DEFINE_enum(
    "overlays", "anomalous", ["anomalous", "all", "none"], "pictures of which images"
)
THRESHOLD = flags.DEFINE_float("threshold", None, "a score above this is anomalous (default: the run's own)")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images a device scores at once", lower_bound=1)
RATE = flags.DEFINE_float("false_alarm_rate", None, "choose the threshold that good images pass this rarely")


def main(*sources: str) -> None:
    if not WORKDIR.value:
        raise UserError("--workdir is missing; give the folder that train.py printed")
    if not sources:
        raise UserError("no images were named; give files, folders or a pattern in quotes")
    if THRESHOLD.value is not None and RATE.value is not None:
        raise UserError("--threshold and --false_alarm_rate: give one of them")
    # After the flags: bad ones need not wait for JAX.
    from daad_jax.detection.detector import Detector
    from daad_jax.detection.predictions import find, output_folder, predict
    from daad_jax.scoring.anomaly_score import shortage

    next(find(sources))
    detector = Detector.load(WORKDIR.value, BATCH_SIZE.value)
    calibration = detector.calibration
    if THRESHOLD.value is not None:
        detector.threshold = THRESHOLD.value
    else:
        rate = calibration.false_alarm_rate if RATE.value is None else RATE.value
        detector.threshold = calibration.threshold_at(rate)
        if few := shortage(len(calibration.scores), rate):
            print(f"warning: {few}", file=sys.stderr)
    predict(detector, sources, output_folder(Path(WORKDIR.value), OUT.value), OVERLAYS.value)


if __name__ == "__main__":
    cli.run(main, positional=True)
