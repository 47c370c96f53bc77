"""The rag service's own rig, for tests that need chat and rag together: real database, files and model."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
# The model that `make setup` has built.
os.environ.setdefault("WIREROOM_RAG_MODEL_DIR", str(ROOT / ".build" / "models"))

_spec = importlib.util.spec_from_file_location("rag_fixtures", ROOT / "services/rag/tests/conftest.py")
assert _spec is not None
assert _spec.loader is not None
_rig = importlib.util.module_from_spec(_spec)
sys.modules["rag_fixtures"] = _rig
_spec.loader.exec_module(_rig)
model_files, rag_database, start_rag, rag = _rig.model_files, _rig.rag_database, _rig.start_rag, _rig.rag
