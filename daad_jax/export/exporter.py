"""A run as files that score images without this package: StableHLO by jax.export, ONNX by jax2onnx."""

import importlib.util
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

import daad_jax
from daad_jax.config import Config
from daad_jax.data import images as pillow
from daad_jax.detection.detector import Detections, Detector
from daad_jax.errors import UserError
from daad_jax.export.pillow_scaling import bilinear, can_scale
from daad_jax.files import writing
from daad_jax.method.state import TrainState
from daad_jax.models.layers import Form
from daad_jax.scoring.anomaly_score import Calibration
from daad_jax.scoring.distances import Variables, make_measure
from daad_jax.scoring.scorer import variables_of
from daad_jax.training import checkpoint

FORMAT = 1  # of the metadata
FORMATS = ("stablehlo", "onnx")
PLATFORMS = ("cpu", "tpu", "cuda")
OUTPUTS = ("score", "heat", "anomalous", "reconstruction")
OPSET = 18  # the oldest that holds all operators in use
MOST_BYTES = 2_000_000_000  # of parameters: both formats end at 2 GiB
LARGEST_DIFFERENCE = 1e-3  # from the detector, relative (absolute below 1)
CHECKED = 8  # images

Size = tuple[int, int]  # (height, width)
Graph = Callable[[jax.Array], dict[str, jax.Array]]
Runner = Callable[[np.ndarray], dict[str, np.ndarray]]


def export(
    workdir: Path, formats: Sequence[str], size: Size | None = None, output: Path | None = None
) -> None:
    """Writes `model.stablehlo` with `model.json`, `model.onnx`, or all, each checked before it appears.

    Args:
        workdir: of the run.
        formats: of `FORMATS`.
        size: of the images that will come; None: the model's own.
        output: a folder; None: `<workdir>/export`.

    Raises:
        UserError: an unknown format, a missing package, no checkpoint, a size that cannot be brought to
            the model's, a folder that cannot be written, or a file that scores otherwise than the run.
    """
    _check_formats(formats)
    state, config, calibration = checkpoint.load(workdir)
    folder = output or workdir / "export"
    with _staged(folder) as staging:
        detector = Detector(state, config, calibration)
        for name, (path, runner) in _write(staging, formats, state, config, calibration, size).items():
            images = probes(size or model_size(config), config.data.channels)
            score, heat = differences(runner, detector, images)
            print(
                f"{folder / path.name}: {path.stat().st_size / 1e6:.2f} MB; on {CHECKED} random images its "
                f"scores differ from the run's by {score:.1e} relative at most, its heat maps by {heat:.1e}"
            )
            if not (score <= LARGEST_DIFFERENCE and heat <= LARGEST_DIFFERENCE):  # NaN is refused, too
                raise UserError(
                    f"{path.name}: differs from the run by more than {LARGEST_DIFFERENCE:g}, and was not "
                    f"written; try other versions of {name}'s packages (requirements-export.txt)"
                )
    for name in formats:
        print(f"next: python examples/score_{name}.py {folder / f'model.{name}'} IMAGE...")


def to_stablehlo(
    variables: Variables, config: Config, calibration: Calibration, size: Size | None = None
) -> bytes:
    """The serialised `jax.export.Exported` for all `PLATFORMS`: images -> a dictionary of `OUTPUTS`."""
    graph = make_graph(variables, config, calibration, size, "portable")
    height, width = size or model_size(config)
    shape = jax_export.symbolic_shape(f"b, {height}, {width}, {config.data.channels}")
    images = jax.ShapeDtypeStruct(shape, jnp.uint8)
    return bytes(jax_export.export(jax.jit(graph), platforms=PLATFORMS)(images).serialize())


def to_onnx(
    variables: Variables,
    config: Config,
    calibration: Calibration,
    about: dict[str, Any],
    size: Size | None = None,
) -> bytes:
    """The ONNX model, `images` -> `OUTPUTS`, with `about` as its metadata (text, or JSON of the rest)."""
    import jax2onnx

    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # its warnings are about the converter's own work
    graph = make_graph(variables, config, calibration, size, "native")

    def in_order(images: jax.Array) -> tuple[jax.Array, ...]:
        found = graph(images)
        return tuple(found[name] for name in OUTPUTS)

    height, width = size or model_size(config)
    model: Any = jax2onnx.to_onnx(
        in_order,
        inputs=[jax.ShapeDtypeStruct(("b", height, width, config.data.channels), jnp.uint8)],
        model_name=config.name,
        opset=OPSET,
        input_names=["images"],
        output_names=list(OUTPUTS),
    )
    # Shapes of inner values, wrong where a layout changed after they were noted; runtimes infer them.
    del model.graph.value_info[:]
    for key, value in about.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.metadata_props.add(key=key, value=text)
    return model.SerializeToString()


def make_graph(
    variables: Variables, config: Config, calibration: Calibration, size: Size | None, form: Form
) -> Graph:
    """The whole way from uint8 images `[b, h, w, C]` of `size` to `OUTPUTS`.

    `score` float32 `[b]`, `heat` float32 `[b, H, W]`, `anomalous` bool `[b]` and `reconstruction` uint8
    `[b, H, W, C]`; everything else that it needs is inside as constants.
    """
    measure, fitted = make_measure(config, form), make_fit(config, size or model_size(config))

    def graph(images: jax.Array) -> dict[str, jax.Array]:
        found = measure(variables, fitted(images))
        score = calibration.score(found.reconstruction, found.alignment)
        return {
            "score": score,
            "heat": calibration.heat(found.reconstruction_map, found.alignment_map),
            "anomalous": score > calibration.threshold,
            "reconstruction": found.rebuilt,
        }

    return graph


def make_fit(config: Config, size: Size) -> Callable[[jax.Array], jax.Array]:
    """`data.images.fit` for images of one size as a function of arrays.

    Uint8 `[b, h, w, C]` -> `[b, H, W, C]`.

    Raises:
        UserError: the model takes no other size than its own, or is far too small for this one.
    """
    data, target = config.data, model_size(config)
    if size == target:
        return lambda images: images
    if data.fit == "exact":
        raise UserError(
            f"--height {size[0]} --width {size[1]}: this run takes images of {target[0]} x {target[1]} only "
            "(config.data.fit = 'exact'); leave both out"
        )
    inner = pillow.shrunk(*size, *target) if data.fit == "pad" else target
    if not all(map(can_scale, size, inner)):
        raise UserError(
            f"--height {size[0]} --width {size[1]}: over 256 times the model's size; scale before"
        )
    scale = partial(bilinear, height=inner[0], width=inner[1], rows_first=rows_first(size, inner))
    if inner == target:
        return scale
    # The edges are repeated by index: jax2onnx (0.17.1) goes wrong on jnp.pad of one axis with mode "edge".
    places = [np.pad(np.arange(n), pillow.margin(n, m), mode="edge") for n, m in zip(inner, target)]
    return lambda images: jnp.take(jnp.take(scale(images), places[0], axis=1), places[1], axis=2)


def rows_first(size: Size, target: Size) -> bool:
    """The order of the passes of the installed Pillow, by trial: versions differ.

    Raises:
        UserError: neither gives its pixels.
    """
    image = np.random.default_rng(0).integers(0, 256, (*size, 1), np.uint8)
    expected = pillow.resize(image, *target)
    for order in (False, True):
        if np.array_equal(bilinear(jnp.asarray(image)[None], *target, rows_first=order)[0], expected):
            return order
    raise UserError(
        "this version of Pillow scales images in a way unknown here; leave out --height and --width"
    )


def model_size(config: Config) -> Size:
    return config.data.height, config.data.width


def metadata(step: int, config: Config, calibration: Calibration, size: Size | None = None) -> dict[str, Any]:
    """What a user of the files must know; docs/deploy.md explains every key."""
    height, width = size or model_size(config)
    rate = calibration.false_alarm_rate
    return {
        "format": FORMAT,
        "name": config.name,
        "step": step,
        "threshold": calibration.threshold,
        "false_alarm_rate": rate,
        "promised_rate": calibration.promised_rate(rate),
        "held_out": len(calibration.scores),
        "height": height,
        "width": width,
        "channels": config.data.channels,
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
    return lambda images: dict(zip(OUTPUTS, session.run(list(OUTPUTS), {"images": images})))


def probes(size: Size, channels: int, count: int = CHECKED) -> np.ndarray:
    """Random images from nearly flat to pure noise: uint8 `[count, h, w, channels]`."""
    rng = np.random.default_rng(0)
    contrast = np.linspace(0.02, 1, count).reshape(-1, 1, 1, 1)
    level = rng.uniform(0, 1, (count, 1, 1, 1)) * (1 - contrast)
    return (255 * (level + contrast * rng.random((count, *size, channels)))).astype(np.uint8)


def differences(runner: Runner, detector: Detector, images: np.ndarray) -> tuple[float, float]:
    """The largest differences of scores and of heat maps from the detector's, relative, absolute below 1.

    The images go in as a batch and the first once more alone, as both must give the same.
    """
    expected = detector.score(images)
    together, alone = runner(images), runner(images[:1])
    worst = [_difference(together, expected), _difference(alone, detector.score(images[:1]))]
    score, heat = np.max(worst, axis=0)  # unlike max, NaN where there is one
    return float(score), float(heat)


def _difference(found: dict[str, np.ndarray], expected: Detections) -> tuple[float, float]:
    pairs = ((found["score"], expected.scores), (found["heat"], expected.heat))
    score, heat = (float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)))) for a, b in pairs)
    return score, heat


def _check_formats(formats: Sequence[str]) -> None:
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--formats: {name!r} is unknown; give one or more of {','.join(FORMATS)}")
    if not formats:
        raise UserError(f"--formats: none was given; give one or more of {','.join(FORMATS)}")
    if "onnx" in formats:
        for package in ("jax2onnx", "onnx", "onnxruntime"):
            if importlib.util.find_spec(package) is None:
                remedy = "pip install -r requirements-export.txt"
                raise UserError(f"--formats onnx: the package {package} is missing; {remedy}")


def _write(
    folder: Path,
    formats: Sequence[str],
    state: TrainState,
    config: Config,
    calibration: Calibration,
    size: Size | None,
) -> dict[str, tuple[Path, Runner]]:
    """The files in `folder`, loaded back: format -> model and what runs it."""
    variables = jax.device_get(variables_of(state))
    count = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    if count > MOST_BYTES:
        raise UserError(
            f"the run has {count / 1e9:.1f} GB of parameters, and a file of either format holds 2"
        )
    about = metadata(int(state.step), config, calibration, size)
    written: dict[str, tuple[Path, Runner]] = {}
    if "stablehlo" in formats:
        path = folder / "model.stablehlo"
        path.write_bytes(to_stablehlo(variables, config, calibration, size))
        path.with_suffix(".json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        written["stablehlo"] = path, load_stablehlo(path)
    if "onnx" in formats:
        path = folder / "model.onnx"
        path.write_bytes(to_onnx(variables, config, calibration, about, size))
        written["onnx"] = path, load_onnx(path)
    return written


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder whose files move into `folder` once everything in the block has gone well."""
    with writing(folder, "give another --output"):
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".export.", dir=folder))
        try:
            yield staging
            for path in sorted(staging.iterdir()):
                os.replace(path, folder / path.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
