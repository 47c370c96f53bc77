"""Fixtures of the tests of this member."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from wireroom_common.db import Database
from wireroom_rag.embedding.embedder import Model
from wireroom_rag.embedding.files import ModelFiles
from wireroom_rag.embedding.model_build import build_model

sys.path.insert(0, str(Path(__file__).parent))  # Modules that tests share.

from rag_rig import Rag, StartRag


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> ModelFiles:
    """The built model: in `WIREROOM_RAG_MODEL_DIR` if set (built there when missing), else in a folder of this run."""
    given = os.environ.get("WIREROOM_RAG_MODEL_DIR")
    directory = Path(given) if given else tmp_path_factory.mktemp("model")
    build_model(directory, say=lambda _message: None)
    return ModelFiles(directory)


@pytest.fixture(scope="session")
def model(model_files: ModelFiles) -> Model:
    return Model(model_files)


@pytest_asyncio.fixture
async def rag_database(migrated_database: Callable[[str], Awaitable[Database]]) -> Database:
    return await migrated_database("rag")


@pytest_asyncio.fixture
async def start_rag(rag_database: Database, model_files: ModelFiles, tmp_path: Path) -> AsyncIterator[StartRag]:
    """`await start_rag(**settings)`: the whole service on a real database, called through its stubs; stopped after the test."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Rag:
            rag = Rag(rag_database, tmp_path, model_files, settings)
            await rag.start()
            stack.push_async_callback(rag.stop)
            return rag

        yield start


@pytest_asyncio.fixture
async def rag(start_rag: StartRag) -> Rag:
    return await start_rag()
