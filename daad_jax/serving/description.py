"""The OpenAPI description of the server, and a page that shows the description."""

from pathlib import Path
from typing import Any

from jinja2 import Environment

import daad_jax

NUMBER = {"type": "number"}
TEXT = {"type": "string"}
ERROR = {"type": "object", "required": ["error"], "properties": {"error": TEXT}}
HEAT = {
    "type": "object",
    "required": ["height", "width", "type", "base64"],
    "properties": {
        "height": {"type": "integer"},
        "width": {"type": "integer"},
        "type": {"type": "string", "description": "image/png, or how the numbers are stored"},
        "base64": {"type": "string", "contentEncoding": "base64"},
    },
}
VERDICT = {
    "type": "object",
    "required": ["name", "score", "anomalous", "p_value", "clipped"],
    "properties": {
        "name": {"type": "string", "description": "the name of the file in the form, or image"},
        "score": {"type": "number", "description": "1 is the average normal image"},
        "anomalous": {"type": "boolean", "description": "whether the score is above the threshold"},
        "p_value": {"type": "number", "description": "how often a normal image scores as high or higher"},
        "reconstruction": {"type": "number", "description": "the distance R; not from an exported file"},
        "alignment": {"type": "number", "description": "the distance L; 0 without a discriminator"},
        "clipped": {"type": "boolean", "description": "whether pixels lay outside the range of the run"},
        "heat": HEAT,
    },
}
UNUSABLE = {
    "type": "object",
    "required": ["name", "error"],
    "properties": {"name": TEXT, "error": {"type": "string", "description": "why it has no verdict"}},
}
RUN = {
    "name": {"type": "string", "description": "the folder of the run"},
    "step": {"type": "integer", "description": "the step of the checkpoint"},
    "calibration": {"type": "string", "description": "the id of the calibration that set the threshold"},
    "threshold": {"type": "number", "description": "an image with a higher score is anomalous"},
}


def describe_api(max_images: int, max_bytes: int) -> dict[str, Any]:
    """Returns the OpenAPI 3.1 description of the server.

    Args:
        max_images: the most images of a request.
        max_bytes: the largest body of a request, in bytes.
    """
    scored = {
        "type": "object",
        "required": [*RUN, "images"],
        "properties": RUN | {"images": {"type": "array", "items": {"anyOf": [VERDICT, UNUSABLE]}}},
    }
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": 1,
        "maxItems": max_images,
    }
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {"image": files},
        "additionalProperties": False,
    }
    refusals = {
        "400": _answer("the request cannot be understood", ERROR),
        "403": _answer("a web page of another server has sent the request", ERROR),
        "413": _answer(f"the body has over {max_bytes} bytes, or the heat maps are too large", ERROR),
        "421": _answer("the server does not answer for the name in the header Host", ERROR),
        "503": _answer("too much waits, or there was no answer in time; try again", ERROR),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "daad_jax", "version": daad_jax.__version__},
        "paths": {
            "/score": {
                "post": {
                    "summary": "scores one image (the bytes of its file), or the files of a form",
                    "parameters": [
                        {
                            "name": "heat",
                            "in": "query",
                            "description": "the heat map: none, laid over the image, or its values",
                            "schema": {"enum": ["none", "overlay", "map"], "default": "none"},
                        }
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                            "multipart/form-data": {"schema": form},
                        },
                    },
                    "responses": {
                        "200": _answer("every image has a verdict", scored),
                        "422": _answer("an image has an error in place of a verdict", scored),
                        **refusals,
                    },
                }
            },
            "/healthz": {
                "get": {
                    "summary": "answers as soon as images can be scored",
                    "responses": {
                        "200": _answer(
                            "ready",
                            {
                                "type": "object",
                                "required": ["status", *RUN],
                                "properties": {"status": {"const": "ready"}, **RUN},
                            },
                        )
                    },
                }
            },
            "/metrics": {
                "get": {
                    "summary": "counters for Prometheus",
                    "responses": {
                        "200": {"description": "text", "content": {"text/plain": {"schema": TEXT}}}
                    },
                }
            },
        },
    }


def _answer(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def make_page(run: dict[str, Any], api: dict[str, Any], address: str) -> str:
    """Returns the HTML page of the server.

    Args:
        run: `name`, `step` and `threshold` of the run.
        api: the description that `describe_api` returned.
        address: the server's address as the reader typed it, with a slash at the end.
    """
    template = Environment(autoescape=True).from_string(Path(__file__).with_name("page.html.j2").read_text())
    return template.render(run=run, api=api, address=address)
