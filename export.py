"""python export.py --workdir DIR: the run as StableHLO and ONNX files that need nothing of this package."""

from pathlib import Path

from absl import flags

from daad_jax import cli
from daad_jax.errors import UserError

WORKDIR = cli.define_workdir("the run to export, as train.py printed it")
FORMATS = flags.DEFINE_list("formats", "stablehlo,onnx", "what to write: stablehlo, onnx or both")
OUTPUT = flags.DEFINE_string("output", None, "folder for the files; default: export/ in the workdir")
HEIGHT, WIDTH = (
    flags.DEFINE_integer(name, None, f"{name} of the images that will come; default: the model's", 1, 2**16)
    for name in ("height", "width")
)


def main() -> None:
    if not WORKDIR.value:
        raise UserError("--workdir is missing; give the folder that train.py printed")
    if (HEIGHT.value is None) != (WIDTH.value is None):
        raise UserError("--height and --width belong together; give both or neither")
    from daad_jax.export.exporter import export  # after the flags: bad ones need not wait for JAX

    size = (HEIGHT.value, WIDTH.value) if HEIGHT.value and WIDTH.value else None
    output = Path(OUTPUT.value) if OUTPUT.value else None
    export(Path(WORKDIR.value), FORMATS.value, size, output)


if __name__ == "__main__":
    cli.run(main)
