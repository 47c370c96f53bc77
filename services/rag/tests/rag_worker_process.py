"""The rag service as a process of its own, to be killed: `rag_worker_process.py DATABASE_URL FOLDER MODEL_FOLDER SETTINGS_JSON`."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from rag_rig import Rag

from wireroom_common.db import Database, DatabaseUrl
from wireroom_rag.embedding.files import ModelFiles


async def main(url: str, folder: str, model: str, settings: str) -> None:
    database = Database(DatabaseUrl.parse(url), "rag")
    rag = Rag(database, Path(folder), ModelFiles(Path(model)), json.loads(settings))
    await rag.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
