"""Image anomaly detection in JAX with block-wise memories of normality (DAAD, ICCV 2021).

    from daad_jax import Detector, load_recipe, train

    train(load_recipe("folder:path/to/good/images"), "runs/parts")
    detections = Detector.load("runs/parts").score(["a.png", "b.jpg"])

Images need not be files: `train(config, "runs/parts", data=images)` takes an array `[N, h, w, C]`, any
iterable of images, or `Splits`.

`__all__` names the public interface, which stays. Everything else in the package may change.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from daad_jax.config import Config
    from daad_jax.data.samples import Split, Splits
    from daad_jax.detection.detections import Detections
    from daad_jax.detection.detector import Detector
    from daad_jax.detection.overlay import draw_overlay
    from daad_jax.errors import UserError
    from daad_jax.recipes import load_recipe
    from daad_jax.training.loop import TrainingResult, train

__version__ = "0.1.0"
__all__ = [
    "Config",
    "Detections",
    "Detector",
    "Split",
    "Splits",
    "TrainingResult",
    "UserError",
    "draw_overlay",
    "load_recipe",
    "train",
]

# The modules are imported on first use, because our commands set JAX's flags before they import JAX.
_MODULES = {
    "Config": "daad_jax.config",
    "Detections": "daad_jax.detection.detections",
    "Detector": "daad_jax.detection.detector",
    "Split": "daad_jax.data.samples",
    "Splits": "daad_jax.data.samples",
    "TrainingResult": "daad_jax.training.loop",
    "UserError": "daad_jax.errors",
    "draw_overlay": "daad_jax.detection.overlay",
    "load_recipe": "daad_jax.recipes",
    "train": "daad_jax.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
