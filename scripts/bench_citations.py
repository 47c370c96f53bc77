"""Does the `extractive` answer abstain where the sources are about something else? Questions of one judged collection put to another.

    .venv/bin/python scripts/bench_citations.py [--documents 300] [--queries 60]

Reads the collections below `WIREROOM_TEST_DATA` (`../shared/data/retrieval` by default), indexes the first documents of each by itself, in
memory: the same embedding model and passages, ranked by cosine. Prints how many queries of the own and of the other collection are quoted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.passages import Passage, SourceKind
from wireroom_chat.domain.terms import Terms
from wireroom_rag.embedding.embedder import Model
from wireroom_rag.embedding.files import ModelFiles

ROOT = Path(__file__).resolve().parent.parent
_TOP = 8
_CHARACTERS = 900
_BATCH = 32


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Abstention of quoted answers across two judged collections.")
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--queries", type=int, default=60)
    arguments = parser.parse_args()
    folder = Path(os.environ.get("WIREROOM_TEST_DATA", ROOT.parent / "shared/data/retrieval"))
    collections = sorted(path.parent for path in folder.glob("*/docs.jsonl"))
    if len(collections) < 2:  # noqa: PLR2004 - one answers, another does not
        sys.exit(f"Two judged collections are needed below {folder}.")
    model = Model(ModelFiles(ROOT / ".build/models"))
    terms = Terms()
    selector = QuoteSelector(terms)
    queries = {path.name: [row["text"] for row in _rows(path / "queries.jsonl")][: arguments.queries] for path in collections}
    for path in collections:
        texts = [row["text"][:_CHARACTERS] for row in _rows(path / "docs.jsonl")][: arguments.documents]
        vectors = np.concatenate([model.embed(texts[at : at + _BATCH]) for at in range(0, len(texts), _BATCH)])
        for name, asked in queries.items():
            quoted = sum(bool(selector.select(query, _found(query, texts, vectors, model))) for query in asked)
            print(f"sources {path.name}, questions {name}: {quoted} of {len(asked)} quoted")


def _found(query: str, texts: list[str], vectors: Any, model: Model) -> list[Passage]:
    near = vectors @ model.embed([query])[0]
    best = np.argsort(-near)[:_TOP]
    return [
        Passage(
            str(at),
            str(at),
            1,
            SourceKind.DOCUMENT,
            "",
            "",
            0,
            0,
            len(texts[at]),
            texts[at],
            1 / (60 + rank),
            float(near[at]),
            0.0,
        )
        for rank, at in enumerate(best, start=1)
    ]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
