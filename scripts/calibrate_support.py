"""Choose the thresholds of the check of citations, with the installation's own embedding model.

    .venv/bin/python scripts/calibrate_support.py

Reads the labelled pairs of `services/chat/tests/fixtures/support_calibration.txt`, prints precision and recall over thresholds with and
without vectors, and the smallest threshold at which at least 98 % of what passes is borne out; then what these thresholds do to
`support_held_out.txt`, `support_unseen.txt` and `support_clauses.txt`, which they were not chosen by. Writes the cosines for the chat
service's tests, which know no embedding model.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "services/chat/tests"))

from support_pairs import COSINES, Pair, pairs, scores

from wireroom_chat.domain.statements import StatementReader
from wireroom_chat.domain.support import SupportRules, Thresholds
from wireroom_chat.domain.terms import Terms
from wireroom_rag.embedding.embedder import Model
from wireroom_rag.embedding.files import ModelFiles

PRECISION = 0.98
_STEPS = 41
_LOWEST = 0.6
Scored = Sequence[tuple[float, bool]]


def measured(model: Model, found: Sequence[Pair]) -> dict[str, list[float]]:
    """Cosines of each claim with the quotes of its passage."""
    result: dict[str, list[float]] = {}
    for pair in found:
        claim, *quotes = model.embed([pair.claim, *(citation.quote.text for citation in pair.citations())])
        result[pair.key] = [round(float(claim @ quote), 4) for quote in quotes]
    return result


def at(scored: Scored, threshold: float) -> tuple[float, float]:
    """Precision and recall."""
    passed = [right for score, right in scored if score >= threshold]
    right = sum(right for _, right in scored)
    return (sum(passed) / len(passed) if passed else 1.0), sum(passed) / right


def chosen(scored: Scored) -> float:
    """The smallest threshold from which on precision is never below the wanted one."""
    best = 1.0
    for step in reversed(range(_STEPS)):
        threshold = _LOWEST + step * (1 - _LOWEST) / (_STEPS - 1)
        if at(scored, threshold)[0] < PRECISION:
            break
        best = threshold
    return round(best, 4)


def curve(name: str, scored: Scored) -> None:
    """Print it."""
    print(f"{name}: threshold precision recall")
    for step in range(0, _STEPS, 4):
        threshold = _LOWEST + step * (1 - _LOWEST) / (_STEPS - 1)
        precision, recall = at(scored, threshold)
        print(f"  {threshold:.2f} {precision:.3f} {recall:.3f}")


def scored(rules: SupportRules, found: Sequence[Pair], near: Mapping[str, Sequence[float]], which: int) -> Scored:
    """Scores (0: with vectors, 1: words alone) and labels."""
    return [(scores(rules, pair, near[pair.key])[which], not pair.kind) for pair in found]


def main() -> None:
    """Measure, choose, report."""
    model = Model(ModelFiles(ROOT / ".build/models"))
    calibration = pairs("support_calibration")
    others = {name: pairs(f"support_{name}") for name in ("held_out", "unseen", "clauses")}
    near = measured(model, [*calibration, *(pair for found in others.values() for pair in found)])
    COSINES.write_text(json.dumps(near, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(calibration)} pairs: {dict(Counter(pair.kind or 'supported' for pair in calibration))}")
    reader = StatementReader(Terms())
    weights = [round(0.3 + 0.1 * step, 1) for step in range(7)]
    results = []
    for weight in weights:
        rules = SupportRules(reader, replace(Thresholds(), weight=weight))
        with_vectors = scored(rules, calibration, near, 0)
        threshold = chosen(with_vectors)
        results.append((at(with_vectors, threshold)[1], threshold, weight))
        print(f"weight {weight}: threshold {threshold:.3f}, precision and recall {at(with_vectors, threshold)}")
    recall, threshold, weight = max(results)
    rules = SupportRules(reader, replace(Thresholds(), weight=weight))
    curve(f"with vectors, weight {weight}", scored(rules, calibration, near, 0))
    words = scored(rules, calibration, near, 1)
    curve("words alone", words)
    alone = chosen(words)
    print(f"chosen: weight {weight}, support {threshold:.3f} (recall {recall:.3f}), words alone {alone:.3f} {at(words, alone)}")
    current = Thresholds()
    print(f"in the code: {current}")
    rules = SupportRules(reader, current)
    for name, found in (("calibration", calibration), *others.items()):
        with_vectors, words = scored(rules, found, near, 0), scored(rules, found, near, 1)
        print(
            f"{name}: {len(found)} pairs, precision and recall with vectors {at(with_vectors, current.support)},"
            f" words alone {at(words, current.words_alone)}"
        )
        for pair, (score, right) in zip(found, with_vectors, strict=True):
            if (score >= current.support) != right:
                print(f"  {'passed' if score else 'refused'} {score:.3f} {pair.kind or 'supported'}: {pair.claim}")


if __name__ == "__main__":
    main()
