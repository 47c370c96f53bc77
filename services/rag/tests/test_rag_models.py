from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import pytest
from pydantic import SecretStr, ValidationError
from rag_scripted_models import ScriptedModels

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_rag.embedding.embedder import Embedder, Model
from wireroom_rag.embedding.endpoint import EndpointEmbeddings
from wireroom_rag.embedding.files import ModelFiles
from wireroom_rag.embedding.http import HttpModel, ModelHttp
from wireroom_rag.settings import RagSettings

TEXTS = [f"Pelican number {number} sits on the pier." for number in range(20)]


def endpoint(http: ModelHttp, **options: Any) -> EndpointEmbeddings:
    return EndpointEmbeddings(http, **{"model": "wide", "dimension": 8, "batch": 3, "asks_dimensions": False, **options})


async def test_endpoint_embeds_in_batches_and_in_order() -> None:
    async with ScriptedModels(8) as models:
        http = ModelHttp(HttpModel("wide", models.base_url, SecretStr("secret"), 5, 0, 2))
        await http.start()
        try:
            vectors = await endpoint(http).passages(TEXTS[:7])
            alone = await endpoint(http, batch=1).passages(TEXTS[:7])
            query = await endpoint(http, asks_dimensions=True).query(TEXTS[:2])
        finally:
            await http.stop()
        assert np.allclose(vectors, alone)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
        assert float(np.linalg.norm(query)) == pytest.approx(1.0, abs=1e-5)
        assert [len(request["input"]) for request in models.requests[:3]] == [3, 3, 1]
        assert ("dimensions" in models.requests[0], models.requests[-1]["dimensions"]) == (False, 8)
        assert set(models.keys) == {"Bearer secret"}


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        {"data": [{"index": 0, "embedding": [1.0] * 7}]},
        {"data": [{"index": 0, "embedding": [0.0] * 8}]},
        {"data": [{"index": 1, "embedding": [1.0] * 8}]},
        {"data": [{"index": 0, "embedding": "no numbers"}]},
        [1],
    ],
)
async def test_wrong_answer_of_an_endpoint_is_unavailable_never_a_vector(answer: Any) -> None:
    async with ScriptedModels(8) as models:
        models.answer = answer
        http = ModelHttp(HttpModel("wide", models.base_url, None, 5, 0, 2))
        await http.start()
        try:
            with pytest.raises(WireroomError) as wrong:
                await endpoint(http).passages(["text"])
        finally:
            await http.stop()
        assert (wrong.value.kind, wrong.value.code) == (ErrorKind.UNAVAILABLE, "model_endpoint_wrong")


@pytest.mark.parametrize(("status", "calls", "code"), [(503, 3, "model_endpoint_failed"), (401, 1, "model_endpoint_refused")])
async def test_busy_endpoint_is_asked_again_and_one_that_refuses_is_not(status: int, calls: int, code: str) -> None:
    async with ScriptedModels(8) as models:
        models.status, models.answer = status, {}
        http = ModelHttp(HttpModel("wide", models.base_url, None, 5, 2, 2))
        await http.start()
        try:
            with pytest.raises(WireroomError) as failed:
                await endpoint(http).passages(["text"])
        finally:
            await http.stop()
        assert (failed.value.kind, failed.value.code, len(models.requests)) == (ErrorKind.UNAVAILABLE, code, calls)


async def test_processes_give_the_same_vectors_and_one_that_dies_is_replaced(model_files: ModelFiles, model: Model) -> None:
    embedder = Embedder(model_files, processes=1)
    await embedder.start()
    try:
        assert np.array_equal(await embedder.passages(TEXTS), model.embed(TEXTS))
        (child,) = [process for process in psutil.Process().children() if any("spawn_main" in part for part in process.cmdline())]
        child.kill()

        async def died() -> bool:
            try:
                await embedder.passages(TEXTS[:1])
            except WireroomError as error:
                return error.kind is ErrorKind.UNAVAILABLE
            return False

        await eventually(died, what="the failure of the process that is gone")

        async def again() -> bool:
            return np.array_equal(await embedder.passages(TEXTS[:2]), model.embed(TEXTS[:2]))

        await eventually(again, what="vectors by another process")
    finally:
        await embedder.stop()


def test_settings_name_models_that_are_there_once() -> None:
    wide = {"model": "wide", "base_url": "https://models.example/v1", "dimensions": 768}
    settings = RagSettings(embedding_endpoints=[wide], embedding_model="wide")
    assert settings.embedding_endpoints[0].name == "wide"
    with pytest.raises(ValidationError, match="not set up"):
        RagSettings(embedding_model="wide")
    with pytest.raises(ValidationError, match="same id"):
        RagSettings(embedding_endpoints=[wide, wide])
