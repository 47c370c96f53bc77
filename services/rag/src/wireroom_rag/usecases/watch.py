"""Follow documents through their processing: one query per beat, however many watch."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError, not_found
from wireroom_rag.domain.document import PENDING, Document
from wireroom_rag.domain.scope import Scope
from wireroom_rag.ports.documents import DocumentStore
from wireroom_rag.ports.steering import DocumentKey, Progress, ProgressReader

_log = structlog.get_logger(__name__)


class WatchDocument:
    """At most `most` watchers at a time, `each` of one tenant; changes are looked for every `seconds` while there are any.

    Who reads the document is looked at with them. While `draining`, nobody watches: they are to ask another process.
    """

    def __init__(
        self,
        documents: DocumentStore,
        progress: ProgressReader,
        *,
        draining: Callable[[], bool],
        seconds: float = 0.3,
        most: int = 1_000,
        each: int = 200,
    ) -> None:
        self._documents = documents
        self._progress = progress
        self._draining = draining
        self._seconds = seconds
        self._most = most
        self._each = each
        self._watchers: dict[asyncio.Event, DocumentKey] = {}
        self._seen: dict[DocumentKey, Progress | None] = {}
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, document_id: UUID) -> AsyncIterator[Document]:
        """The document now, and again with each change until its state is final. NOT_FOUND for what the caller cannot see any more.

        UNAVAILABLE `service_stopping` when the process is about to end.
        """
        with self._watching((scope.tenant_id, document_id)) as changed:
            shown: Document | None = None
            while True:
                document = await self._documents.get(scope, document_id)
                if document is None:
                    raise not_found("document")
                if document != shown:
                    yield document
                if document.state not in PENDING:
                    return
                shown = document
                if self._draining():
                    raise WireroomError(
                        ErrorKind.UNAVAILABLE, "service_stopping", "This server is about to stop. Follow again.", retry_after=1
                    )
                await changed.wait()
                changed.clear()

    async def stop(self) -> None:
        """No more looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    @contextlib.contextmanager
    def _watching(self, key: DocumentKey) -> Iterator[asyncio.Event]:
        tenant_id, _ = key
        of_tenant = sum(1 for watched, _ in self._watchers.values() if watched == tenant_id)
        if len(self._watchers) >= self._most or of_tenant >= self._each:
            raise WireroomError(
                ErrorKind.UNAVAILABLE,
                "watchers_too_many",
                "Too many documents are being watched; ask for its status.",
                retry_after=5,
            )
        changed = asyncio.Event()
        self._watchers[changed] = key
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="rag-document-watch")
        try:
            yield changed
        finally:
            del self._watchers[changed]

    async def _look(self) -> None:
        while self._watchers:
            await asyncio.sleep(self._seconds)
            if self._draining():
                for changed in self._watchers:
                    changed.set()
                continue
            keys = set(self._watchers.values())
            try:
                found = await self._progress.progress(keys)
            except Exception:  # noqa: BLE001 - logged with its traceback; the next beat looks again
                _log.exception("progress_not_read")
                continue
            for changed, key in self._watchers.items():
                # What has just begun to be watched counts as changed: it may have, before anybody looked.
                if key not in self._seen or self._seen[key] != found.get(key):
                    changed.set()
            self._seen = {key: found.get(key) for key in keys}
