"""Makes sure that the model is there before it is loaded."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE

import structlog

from wireroom_common.errors import OperatorError
from wireroom_rag.embedding.files import ModelFiles

_TIMEOUT = 300.0

_log = structlog.get_logger(__name__)


async def ensure_model(files: ModelFiles) -> None:
    """Build the model unless it stands there; OperatorError when that fails.

    In a process of its own: building takes memory that would not be given back.
    """
    if files.is_built():
        return
    _log.info("embedding_model_build_started", directory=str(files.directory))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "wireroom_rag.embedding.model_build", str(files.directory), stdout=DEVNULL, stderr=PIPE
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, errors = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0 or not files.is_built():
        reason = next(iter(errors.decode(errors="replace").strip().splitlines()[-1:]), "the process died")[:500]
        raise OperatorError(
            f"The embedding model could not be built in '{files.directory}' (WIREROOM_RAG_MODEL_DIR chooses the folder): {reason}"
        )
    _log.info("embedding_model_built", directory=str(files.directory))
