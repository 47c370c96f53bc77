"""Builds the embedding model once: published weights → ONNX graph → per-channel int8.

`python -m wireroom_rag.embedding.model_build <dir>`; does nothing when `<dir>` already holds this build.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from wireroom_rag.embedding.files import MODEL_NAME, WEIGHTS_SHA256, ModelFiles, published_directory, stamp_content

_BLOCK = 1 << 20


def build_model(directory: Path, *, say: Callable[[str], None], keep_float: Path | None = None) -> bool:
    """Build into `directory`; False when it was there already.

    A reader never sees half a model: files are written beside it and moved in, the stamp last. ValueError when the weights are not
    the pinned ones. `keep_float` names a file for the unquantised graph (for comparison).
    """
    files = ModelFiles(directory)
    if files.is_built() and keep_float is None:
        say(f"embedding model {MODEL_NAME}: already built in {directory}")
        return False
    published = published_directory()
    weights_file = published / "model.safetensors"
    say(f"embedding model {MODEL_NAME}: checking the weights")
    _check_weights(weights_file)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".build-") as scratch_name:
        scratch = ModelFiles(Path(scratch_name))
        say(f"embedding model {MODEL_NAME}: building the graph, quantising to int8 (some seconds)")
        float_graph = scratch.directory / "model.float.onnx"
        _write_graphs(weights_file, float_graph, scratch.graph)
        shutil.copyfile(published / "tokenizer.json", scratch.tokenizer)
        scratch.stamp.write_text(json.dumps(stamp_content()), encoding="utf-8")
        if keep_float is not None:
            shutil.move(float_graph, keep_float)
        for name in ("graph", "tokenizer", "stamp"):
            source: Path = getattr(scratch, name)
            with source.open("rb") as handle:
                os.fsync(handle.fileno())
            source.replace(getattr(files, name))
    say(f"embedding model {MODEL_NAME}: built in {directory}")
    return True


def _check_weights(path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != WEIGHTS_SHA256:
        msg = f"The weights in {path} are not the pinned ones (sha256 {digest.hexdigest()}, expected {WEIGHTS_SHA256})."
        raise ValueError(msg)


def _write_graphs(weights_file: Path, float_graph: Path, quantised_graph: Path) -> None:
    # Imported here: a running service looks at this module to see whether a build is needed, and must not pay for onnx.
    import onnx  # noqa: PLC0415 - see above
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped]  # noqa: PLC0415 - no stubs; see above
    from safetensors.numpy import load_file  # noqa: PLC0415 - see above

    from wireroom_rag.embedding.graph import build_graph  # noqa: PLC0415 - see above

    onnx.save(build_graph(load_file(weights_file)), float_graph)
    # The quantiser advises a shape inference that a graph of fixed operators does not need.
    logging.disable(logging.WARNING)
    try:
        quantize_dynamic(float_graph, quantised_graph, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        logging.disable(logging.NOTSET)


def main() -> int:
    """Command line: one argument, the model directory."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - program name and one argument
        sys.stderr.write("usage: python -m wireroom_rag.embedding.model_build <dir>\n")
        return 2

    def say(message: str) -> None:
        sys.stdout.write(f"{message}\n")
        sys.stdout.flush()

    build_model(Path(sys.argv[1]), say=say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
