"""The two formats, StableHLO by jax.export and ONNX by jax2onnx: how each is written, and how it runs."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

import daad_jax
from daad_jax.config import Config
from daad_jax.export.graph import Size, find_input, make_graph, model_size, outputs_of
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Variables
from daad_jax.training.calibration_files import CalibrationLabel

FORMAT = 2  # of the metadata
PLATFORMS = ("cpu", "tpu", "cuda")
OPSET = 18  # the oldest that holds all operators in use
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def to_stablehlo(
    variables: Variables, config: Config, calibration: Calibration, size: Size | None = None
) -> bytes:
    """The serialised `jax.export.Exported` for all `PLATFORMS`: images -> a dictionary of `outputs_of`."""
    graph = make_graph(variables, config, calibration, size, "portable")
    height, width = size or model_size(config)
    shape = jax_export.symbolic_shape(f"b, {height}, {width}, {config.data.channels}")
    images = jax.ShapeDtypeStruct(shape, find_input(config).pixel_type)
    return bytes(jax_export.export(jax.jit(graph), platforms=PLATFORMS)(images).serialize())


def to_onnx(
    variables: Variables,
    config: Config,
    calibration: Calibration,
    about: dict[str, Any],
    size: Size | None = None,
) -> bytes:
    """The ONNX model, `images` -> `outputs_of`, with `about` as its metadata (text, or JSON of the rest)."""
    import jax2onnx

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings are about the converter's own work
    graph = make_graph(variables, config, calibration, size, "native")

    def in_order(images: jax.Array) -> tuple[jax.Array, ...]:
        found = graph(images)
        return tuple(found[name] for name in outputs_of(config))

    height, width = size or model_size(config)
    model: Any = jax2onnx.to_onnx(
        in_order,
        inputs=[
            jax.ShapeDtypeStruct(("b", height, width, config.data.channels), find_input(config).pixel_type)
        ],
        model_name=config.name,
        opset=OPSET,
        input_names=["images"],
        output_names=list(outputs_of(config)),
    )
    # Shapes of inner values, wrong where a layout changed after they were noted; runtimes infer them.
    del model.graph.value_info[:]
    for key, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=key, value=text)
    return model.SerializeToString()


def metadata(
    label: CalibrationLabel, config: Config, calibration: Calibration, size: Size | None = None
) -> dict[str, Any]:
    """What a user of the files must know; docs/deploy.md explains every key."""
    height, width = size or model_size(config)
    rate, taken = calibration.false_alarm_rate, find_input(config)
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
        "fit": "resize" if config.data.fit == "resize" and size is None else "exact",
        "daad_jax": daad_jax.__version__,
        "jax": jax.__version__,
        "config": asdict(config),
    }


def load_stablehlo(path: Path) -> Runner:
    exported = jax_export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return lambda images: jax.device_get(call(images))


def load_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images})))
