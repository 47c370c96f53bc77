"""Write the cosines of the chat service's paraphrases anew, with the installation's own embedding model.

    .venv/bin/python scripts/measure_paraphrases.py

reads and writes `services/chat/tests/fixtures/paraphrases.json`. The chat service's tests know no embedding model: it lives in rag.
"""

from __future__ import annotations

import json
from pathlib import Path

from wireroom_rag.embedding.embedder import Model
from wireroom_rag.embedding.files import ModelFiles

ROOT = Path(__file__).resolve().parent.parent
FIXTURE = ROOT / "services/chat/tests/fixtures/paraphrases.json"


def main() -> None:
    """Measure and write."""
    model = Model(ModelFiles(ROOT / ".build/models"))
    rows = json.loads(FIXTURE.read_text())
    for row in rows:
        one, other = model.embed([row["a"], row["b"]])
        row["cosine"] = round(float(one @ other), 3)
    FIXTURE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
