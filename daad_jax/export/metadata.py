"""Describes an exported file for a user who has no other file of the run."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

import daad_jax
from daad_jax.config import Config
from daad_jax.export.formats import OPSET
from daad_jax.export.graph import Size, find_input, model_size, outputs_of
from daad_jax.files import sha256_of
from daad_jax.scoring.anomaly_score import UNITS, Calibration
from daad_jax.training.calibration_files import CalibrationLabel

FORMAT = 3  # of the metadata; format 2 had no p-values, preprocessing, verdict or outputs
OUTPUTS = {
    "score": ("float32", "[b]", "the anomaly score A(x); 1 is the average normal image"),
    "heat": ("float32", "[b, H, W]", "the heat map; normal images stay mostly below 1"),
    "anomalous": ("bool", "[b]", "the verdict: not score <= threshold"),
    "reconstruction": ("", "[b, H, W, C]", "the image as the model reconstructs it"),
    "p_value": ("float32", "[b]", "how often a normal image scores as high or higher"),
}
# The oldest JAX that reads a file for a fixed number of images. Found by trial, see docs/deploy.md.
OLDEST_READER = (0, 9, 0)
ONNX_READERS = f"runtimes of ONNX opset {OPSET}: onnxruntime >= 1.16, onnxruntime-web, OpenVINO"


def metadata(
    label: CalibrationLabel, config: Config, calibration: Calibration, size: Size | None = None
) -> dict[str, Any]:
    """Returns the metadata of exported files. docs/deploy.md explains every key.

    Args:
        label: names the calibration.
        config: the configuration of the run.
        calibration: the calibration of the run.
        size: (height, width) of the images that the files take; None: the model's size.

    Raises:
        UserError: the run has ranges for several types of files, see `find_input`.
    """
    height, width = size or model_size(config)
    rate, taken = calibration.false_alarm_rate, find_input(config)
    is_resized = config.data.fit == "resize" and size is None
    return {
        "format": FORMAT,
        "name": config.name,
        "step": label.step,
        "threshold": calibration.threshold,
        "false_alarm_rate": rate,
        "promised_rate": calibration.promised_rate(rate),
        "held_out": len(calibration.scores),
        "calibration": {"id": label.id, "created": label.created},
        "height": height,
        "width": width,
        "channels": config.data.channels,
        "input_type": taken.pixel_type,
        "stored_type": taken.stored_type,
        "range": taken.limits,
        "tiles": config.data.tiles,
        "fit": "resize" if is_resized else "exact",
        "preprocessing": _describe_preprocessing(config, (height, width), is_resized),
        "verdict": "An image is anomalous if its score is greater than the threshold, or is no number (NaN).",
        "p_value": "(1 + the sum of 1 / group_sizes over held_out_scores >= score) / (1 + the sum of all "
        "1 / group_sizes); without group_sizes, every term is 1",
        "outputs": _describe_outputs(config),
        "units": {name: asdict(getattr(calibration, name)) for name in UNITS}
        | {"gamma": calibration.gamma, "heat_peak": calibration.heat_peak},
        "held_out_scores": calibration.scores,
        "group_sizes": calibration.group_sizes,
        "daad_jax": daad_jax.__version__,
        "jax": jax.__version__,
        "config": asdict(config),
    }


def describe_file(path: Path, batch_size: int | None) -> dict[str, Any]:
    """Returns the entry of a model in `model.json`, under "files".

    Args:
        path: the model; its suffix names the format.
        batch_size: how many images the model takes; None: any number.
    """
    own = jax.__version_info__[:3]
    oldest = own if batch_size is None else min(own, OLDEST_READER)
    readers = ONNX_READERS if path.suffix == ".onnx" else f"jax >= {'.'.join(map(str, oldest))}"
    return {
        "format": path.suffix[1:],
        "batch_size": batch_size,
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "read_by": readers,
    }


def _describe_preprocessing(config: Config, size: Size, is_resized: bool) -> Sequence[str]:
    """Returns the steps from an image file to the array `images`, in full sentences."""
    colours = "grey values" if config.data.channels == 1 else "RGB"
    taken = find_input(config)
    steps = [f"Decode the file to {colours}, and apply the rotation that EXIF names."]
    if is_resized:
        steps.append(f"Scale it to {size[0]} x {size[1]} (height x width), bilinear with antialiasing.")
    else:
        steps.append(f"The image must have {size[0]} x {size[1]} pixels (height x width).")
    if taken.pixel_type == "uint8":
        steps.append("Give the values 0 to 255 as uint8; nothing is subtracted or divided.")
    else:
        steps.append(f"Give the {taken.stored_type} values of the file as float32, unchanged.")
    return (*steps, "The axes are image, row, column, channel.")


def _describe_outputs(config: Config) -> dict[str, Any]:
    kinds = {name: dict(zip(("type", "shape", "meaning"), OUTPUTS[name])) for name in outputs_of(config)}
    if "reconstruction" in kinds:
        kinds["reconstruction"]["type"] = config.data.prepared_type
    return kinds
