"""Renders pages: with templates that escape every text, one style, and all pictures inside the page."""

import base64
import io
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from daad_jax.escaping import for_page
from daad_jax.evaluation import charts

MAX_PICTURE_SIDE = 128  # pixels; larger pictures are scaled down
MIN_SMOOTH_SIDE = 64  # pixels; images with a shorter longer side are enlarged without smoothing


def render_page(template: str, **values: Any) -> str:
    """Renders a template of this folder. Every text is escaped.

    Args:
        template: the file name of the template.
        values: the values of the template, by name.
    """
    folder = resources.files("daad_jax.evaluation")
    environment = jinja2.Environment(
        autoescape=True,
        finalize=for_page,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = Markup(folder.joinpath("page.css").read_text("utf-8"))  # our own text, which needs no escaping
    text = folder.joinpath(template).read_text("utf-8")
    return environment.from_string(text).render(style=style, **values)


def draw_svg(figure: Figure, name: str) -> Markup:
    """Returns a chart as markup. Charts need no escaping, because they have only numbers and our words."""
    return Markup(charts.to_svg(figure, name))


def encode_png(pixels: np.ndarray) -> str:
    """Encodes uint8 `[H, W]` or `[H, W, C]` as a data URI."""
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
