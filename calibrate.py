"""python calibrate.py --workdir DIR FOLDER...: a new threshold of a finished run, from more good images."""

from daad_jax import entry

if __name__ == "__main__":
    entry.run_script("calibrate")
