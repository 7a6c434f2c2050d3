"""From ten photos of good parts to a verdict: python -m examples.ten_photos GOOD_FOLDER NEW_IMAGE...

Trains on half of the photos for a few minutes, keeps the other half to set the threshold, and says of
every new image whether it is normal and where it is not. Run again, it only scores.
"""

import sys
from pathlib import Path

from PIL import Image

from configs.folder import get_config
from daad_jax.detection.detector import Detector
from daad_jax.detection.overlay import overlay
from daad_jax.errors import UserError
from daad_jax.training.loop import train


def main(good: str, *new: str) -> None:
    config = get_config(good)
    config.data.height = config.data.width = 64
    config.data.calibration_fraction = 0.5  # few photos: the threshold needs as many as the model
    config.train.batch_size, config.train.steps = 8, 300
    workdir = Path("runs", f"{config.name}-ten_photos")
    train(config, workdir)

    detector = Detector.load(workdir)
    found = detector.score(new)
    rate = detector.calibration.promised_rate(config.score.false_alarm_rate)
    print(f"a good photo is called anomalous with probability {rate:.2f} at most; more photos lower that")
    for i, name in enumerate(new):
        verdict = "anomalous" if found.anomalous[i] else "normal"
        print(f"{name}: {verdict}, score {found.scores[i]:.2f}, threshold {detector.threshold:.2f}")
        picture = workdir / f"{i}-{Path(name).stem}.png"
        Image.fromarray(overlay(found.images[i], found.heat[i])).resize((512, 512)).save(picture)
        print(f"  where: {picture}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
