"""Writes and runs the two formats: StableHLO by jax.export, and ONNX by jax2onnx."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from daad_jax.config import Config
from daad_jax.export.graph import Size, find_input, make_graph, model_size, outputs_of
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Variables

PLATFORMS = ("cpu", "tpu", "cuda")
OPSET = 18  # the oldest ONNX version with all operators that the graphs use
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def to_stablehlo(
    variables: Variables,
    config: Config,
    calibration: Calibration,
    size: Size | None = None,
    batch_size: int | None = None,
) -> bytes:
    """Returns a serialised `jax.export.Exported` for all `PLATFORMS`, the function of `graph.make_graph`.

    Args:
        variables: the variables of the run's networks. They become constants of the program.
        config: the configuration of the run.
        calibration: the calibration of the run. Its numbers become constants of the program.
        size: (height, width) of the images; None: the model's size.
        batch_size: how many images the program takes; None: any number.
    """
    graph = make_graph(variables, config, calibration, size, "portable")
    height, width = size or model_size(config)
    count = "b" if batch_size is None else batch_size
    shape = jax_export.symbolic_shape(f"{count}, {height}, {width}, {config.data.channels}")
    images = jax.ShapeDtypeStruct(shape, find_input(config).pixel_type)
    return bytes(jax_export.export(jax.jit(graph), platforms=PLATFORMS)(images).serialize())


def to_onnx(
    variables: Variables,
    config: Config,
    calibration: Calibration,
    about: dict[str, Any],
    size: Size | None = None,
    batch_size: int | None = None,
) -> bytes:
    """Returns the ONNX model: its input is `images`, its outputs are `outputs_of(config)`.

    Args:
        variables: see `to_stablehlo`.
        config: see `to_stablehlo`.
        calibration: see `to_stablehlo`.
        about: the metadata of the model. Text is stored as it is, other values as JSON.
        size: see `to_stablehlo`.
        batch_size: see `to_stablehlo`.
    """
    import jax2onnx

    from daad_jax.export.onnx_rewriting import rewrite

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings concern the converter, not the user
    graph = make_graph(variables, config, calibration, size, "native")

    def in_order(images: jax.Array) -> tuple[jax.Array, ...]:
        found = graph(images)
        return tuple(found[name] for name in outputs_of(config))

    height, width = size or model_size(config)
    shape = (batch_size or "b", height, width, config.data.channels)
    model: Any = jax2onnx.to_onnx(
        in_order,
        inputs=[jax.ShapeDtypeStruct(shape, find_input(config).pixel_type)],
        model_name=config.name,
        opset=OPSET,
        input_names=["images"],
        output_names=list(outputs_of(config)),
    )
    # Remove the shapes of inner values: some became wrong when the converter changed layouts.
    # Runtimes infer these shapes.
    del model.graph.value_info[:]
    model = rewrite(model)
    for key, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=key, value=text)
    return bytes(model.SerializeToString())


def load_stablehlo(path: Path) -> Runner:
    """Returns a function that runs a file of `to_stablehlo` on any number of images.

    A file for a fixed number of images runs several times, and the last batch is filled up.
    """
    exported = jax_export.deserialize(bytearray(path.read_bytes()))
    call = jax.jit(exported.call)
    return _in_batches(lambda images: jax.device_get(call(images)), exported.in_avals[0].shape[0])


def load_onnx(path: Path) -> Runner:
    """Returns a function that runs a file of `to_onnx` on any number of images, as `load_stablehlo` does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    run = lambda images: dict(zip(names, session.run(names, {"images": images})))  # noqa: E731
    return _in_batches(run, session.get_inputs()[0].shape[0])


def _in_batches(run: Runner, size: Any) -> Runner:
    """Returns a function of any number of images. `run` takes `size` images, or any number without an int."""
    if not isinstance(size, int):
        return run

    def batched(images: np.ndarray) -> dict[str, np.ndarray]:
        parts = []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            missing = size - len(batch)
            filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
            parts.append({name: values[: len(batch)] for name, values in run(filled).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return batched
