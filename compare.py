"""python compare.py RUN RUN...: evaluated runs side by side, and the images on which they disagree."""

from daad_jax import commands

if __name__ == "__main__":
    commands.run_script("compare")
