"""Learns from ten photos of good parts: python -m examples.ten_photos GOOD_FOLDER NEW_IMAGE...

Half of the photos train the model, which takes a few minutes. The other half sets the threshold. The program
then prints a verdict for every new image, and saves a picture that shows where the image differs. A second
call with the same folder does not train again.
"""

import sys
from pathlib import Path

from PIL import Image

from daad_jax import Detector, UserError, draw_overlay, load_recipe, train


def main(good: str, *new: str) -> None:
    config = load_recipe(f"folder:{good}")
    config.data.height = config.data.width = 64
    config.data.calibration_fraction = 0.5  # few photos: the threshold needs as many as the model
    config.train.batch_size, config.train.steps = 8, 300
    workdir = Path("runs", f"{config.name}-ten_photos")
    train(config, workdir)

    detector = Detector.load(workdir)
    detections = detector.score(new)
    rate = detector.calibration.promised_rate(config.score.false_alarm_rate)
    print(f"the threshold flags a good photo with probability {rate:.2f} at most, if new photos vary as the")
    print("given ones do; more photos lower the rate")
    for i, name in enumerate(new):
        verdict = "anomalous" if detections.anomalous[i] else "normal"
        print(f"{name}: {verdict}, score {detections.scores[i]:.2f}, threshold {detector.threshold:.2f}")
        picture = workdir / f"{i}-{Path(name).stem}.png"
        Image.fromarray(draw_overlay(detections.images[i], detections.heat[i])).resize((512, 512)).save(
            picture
        )
        print(f"  heat map: {picture}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
