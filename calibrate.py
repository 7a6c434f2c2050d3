"""python calibrate.py --workdir DIR FOLDER...: a new threshold of a finished run, from more good images."""

from daad_jax import commands

if __name__ == "__main__":
    commands.run_script("calibrate")
