"""Runs an exported ONNX file with onnxruntime-web in headless Chromium.

The page comes from a server on this machine, and nothing else is asked for.
"""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.deployed_model import BATCH, HALF_TURN_S

PAGE = """<!doctype html><script type="module">
import * as ort from "./dist/ort.wasm.bundle.min.mjs";
const shape = SHAPE;
const pixels = new Uint8Array(await (await fetch("images.bin")).arrayBuffer());
const session = await ort.InferenceSession.create("model.onnx");
const size = shape[1] * shape[2] * shape[3];
async function run(first, count) {
  const part = pixels.subarray(first * size, (first + count) * size);
  return session.run({ images: new ort.Tensor("uint8", part, [count, ...shape.slice(1)]) });
}
window.time = async (count) => {
  let calls, passed;
  for (let half = 0; half < 2; half++) {  // the first half is not timed, as in deployed_model.py
    const start = performance.now();
    for (calls = passed = 0; passed < HALF_TURN_MS || !calls; passed = performance.now() - start) {
      await run(0, count);
      calls++;
    }
  }
  return passed / calls;
};
window.scores = async () => {
  const found = { score: [], p_value: [], anomalous: [] };
  for (let i = 0; i < shape[0]; i += BATCH) {
    const outputs = await run(i, Math.min(BATCH, shape[0] - i));
    for (const name in found) found[name].push(...Array.from(outputs[name].data, Number));
  }
  return found;
};
window.version = ort.env.versions.web;
window.threads = ort.env.wasm.numThreads;
window.ready = true;
</script>"""


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder with the two headers that give a page threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


class Browser:
    """A page that holds the model. `version` names the library."""

    def __init__(self, page: Any) -> None:
        self._page = page
        page.wait_for_function("window.ready", timeout=120_000)
        threads = page.evaluate("window.threads")
        self.version = f"onnxruntime-web {page.evaluate('window.version')}, wasm, {threads} thread(s)"

    def time(self, count: int) -> float:
        """The milliseconds of a call with the first `count` images. Raises RuntimeError if the page fails."""
        return float(self._evaluate("n => window.time(n)", count))

    def scores(self) -> dict[str, list[float]]:
        """`score`, `p_value` and `anomalous` of all images."""
        return self._evaluate("() => window.scores()")  # type: ignore[no-any-return]

    def _evaluate(self, expression: str, argument: object = None) -> Any:
        from playwright.sync_api import Error

        try:
            return self._page.evaluate(expression, argument)
        except Error as error:  # for instance, the 4 GB of wasm are full
            raise RuntimeError(f"onnxruntime-web: {str(error).splitlines()[0]}") from error


@contextmanager
def browsing(
    library: Path, model: Path, images: np.ndarray, folder: Path, chromium: str
) -> Iterator[Browser]:
    """Opens the page.

    Args:
        library: the folder `dist` of onnxruntime-web.
        model: the ONNX file.
        images: uint8 `[N, H, W, C]`.
        folder: an empty one, to serve.
        chromium: the program.
    """
    from playwright.sync_api import sync_playwright

    (folder / "dist").symlink_to(library.resolve())
    (folder / "model.onnx").symlink_to(model.resolve())
    (folder / "images.bin").write_bytes(np.ascontiguousarray(images).tobytes())
    page = PAGE.replace("SHAPE", str(list(images.shape))).replace("BATCH", str(BATCH))
    page = page.replace("HALF_TURN_MS", str(1000 * HALF_TURN_S))
    (folder / "index.html").write_text(page, encoding="utf-8")
    handler = functools.partial(_Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                opened = browser.new_page()
                opened.goto(f"http://127.0.0.1:{server.server_address[1]}/index.html")
                yield Browser(opened)
                browser.close()
        finally:
            server.shutdown()
