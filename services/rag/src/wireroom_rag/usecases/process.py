"""Take leased versions through their states. Every step can be repeated: a job that lost its worker starts where its row stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.domain.document import ExtractedText, Job, LeaseLostError, MalwareFoundError, RejectedError, State
from wireroom_rag.domain.generation import Generation
from wireroom_rag.domain.passage import IndexEntry
from wireroom_rag.extraction.text import stored_text
from wireroom_rag.ports.documents import BlobStore
from wireroom_rag.ports.index import IndexWriter
from wireroom_rag.ports.processing import ArticleSource, ArticleText, Extractor, JobStates, Scanner
from wireroom_rag.usecases.passages import Cuts, MakePassages

MAX_ATTEMPTS = 5
# A job whose surroundings stay broken for this long is given up.
_MAX_AGE = 24 * 3600.0
_LONGEST_WAIT = 60.0
_FETCHES_AT_ONCE = 8
_OUTSIDE = (ErrorKind.UNAVAILABLE, ErrorKind.DEADLINE, ErrorKind.RATE_LIMITED)

_log = structlog.get_logger(__name__)

# (tenant, articles): deletes articles that the news service no longer has.
ForgetArticles = Callable[[UUID, list[UUID]], Awaitable[None]]


@dataclass(frozen=True)
class _Fetched:
    job: Job
    article: ArticleText


@dataclass(frozen=True)
class _CutArticle:
    job: Job
    article: ArticleText
    found: ExtractedText
    cuts: Cuts


class Processor:
    """Processes jobs of both kinds; never raises for a job's sake. `max_characters` bounds a stored text."""

    def __init__(
        self,
        *,
        jobs: JobStates,
        index: IndexWriter,
        blobs: BlobStore,
        extractor: Extractor,
        articles: ArticleSource,
        forget_articles: ForgetArticles,
        passages: MakePassages,
        max_characters: int,
        scanner: Scanner | None = None,
    ) -> None:
        self._jobs = jobs
        self._scanner = scanner
        self._index = index
        self._blobs = blobs
        self._extractor = extractor
        self._articles = articles
        self._forget_articles = forget_articles
        self._passages = passages
        self._max_characters = max_characters

    async def documents(self, jobs: Sequence[Job]) -> None:
        """Documents, one after another, each from wherever it stands."""
        for job in await self._within_attempts(jobs):
            try:
                await self._document(job)
            except Exception as error:  # noqa: BLE001 - settled below: no error of one job may stop the others
                await self._settle(job, error)

    async def articles(self, jobs: Sequence[Job]) -> None:
        """Articles, together: their passages share batches of the model and their rows a transaction per tenant."""
        limit = asyncio.Semaphore(_FETCHES_AT_ONCE)
        fetched = await asyncio.gather(*(self._fetch(job, limit) for job in await self._within_attempts(jobs)))
        entries = await self._prepare([item for item in fetched if item is not None])
        tenants = {entry.job.key.tenant_id for entry in entries}
        for tenant_id in tenants:
            await self._write(tenant_id, [entry for entry in entries if entry.job.key.tenant_id == tenant_id])

    async def _document(self, job: Job) -> None:
        found = await self._jobs.text_of(job)
        if found is None:
            if self._scanner is not None and job.state is State.RECEIVED:
                await self._scan(job, self._scanner)
            found = await self._extract(job)
            await self._jobs.extracted(job, found)
        generations = await self._passages.live(job.key.tenant_id)
        cuts = await self._passages.cuts(found, job.title, generations)
        await self._jobs.chunked(job, len(cuts[generations[0].blueprint.chunker].chunks))
        (made,) = await self._passages.embedded(job.key.tenant_id, generations, [cuts])
        await self._jobs.embedded(job)
        await self._index.write(job.key.tenant_id, [IndexEntry(job, made)])

    async def _scan(self, job: Job, scanner: Scanner) -> None:
        if signature := await scanner.scan(self._blobs.read(_blob_key(job))):
            raise MalwareFoundError(signature)
        await self._jobs.scanned(job)

    async def _extract(self, job: Job) -> ExtractedText:
        return await self._extractor.extract(job.media_type, job.size, self._blobs.read(_blob_key(job)))

    async def _fetch(self, job: Job, limit: asyncio.Semaphore) -> _Fetched | None:
        try:
            async with limit:
                key = job.key
                article = await self._articles.fetch(key.tenant_id, key.document_id, key.version)
        except Exception as error:  # noqa: BLE001 - settled here, for this job alone
            if isinstance(error, WireroomError) and error.kind is ErrorKind.NOT_FOUND:
                # Its feed was removed; that event may have come before the one that queued this.
                await self._forget_articles(job.key.tenant_id, [job.key.document_id])
            else:
                await self._settle(job, error)
            return None
        return _Fetched(job, article)

    async def _prepare(self, fetched: Sequence[_Fetched]) -> list[IndexEntry]:
        entries: list[IndexEntry] = []
        for tenant_id in dict.fromkeys(item.job.key.tenant_id for item in fetched):
            own = [item for item in fetched if item.job.key.tenant_id == tenant_id]
            try:
                entries += await self._prepare_of(tenant_id, own)
            except Exception as error:  # noqa: BLE001 - concerns all of them
                for item in own:
                    await self._settle(item.job, error)
        return entries

    async def _prepare_of(self, tenant_id: UUID, fetched: Sequence[_Fetched]) -> list[IndexEntry]:
        generations = await self._passages.live(tenant_id)
        cuts: list[_CutArticle] = []
        for item in fetched:
            try:
                cuts.append(await self._cut_article(item, generations))
            except Exception as error:  # noqa: BLE001 - settled here, for this job alone
                await self._settle(item.job, error)
        try:
            made = await self._passages.embedded(tenant_id, generations, [item.cuts for item in cuts])
        except Exception as error:  # noqa: BLE001 - concerns all that are left
            for cut in cuts:
                await self._settle(cut.job, error)
            return []
        return [
            IndexEntry(cut.job, passages, cut.found, title=cut.article.title, url=cut.article.url)
            for cut, passages in zip(cuts, made, strict=True)
        ]

    async def _cut_article(self, item: _Fetched, generations: Sequence[Generation]) -> _CutArticle:
        # The title is part of the text, so that it is found, cited and counted like the rest.
        article = item.article
        parts = [article.title, article.text] if not article.text.startswith(article.title) else [article.text]
        found = await asyncio.to_thread(stored_text, ["\n\n".join(parts)], paged=False, max_characters=self._max_characters)
        return _CutArticle(item.job, article, found, await self._passages.cuts(found, article.title, generations))

    async def _write(self, tenant_id: UUID, entries: Sequence[IndexEntry]) -> None:
        try:
            await self._index.write(tenant_id, entries)
        except Exception as error:  # noqa: BLE001 - settled here
            if len(entries) == 1:
                await self._settle(entries[0].job, error)
                return
            # One of them may be at fault: the others must not wait for it.
            for entry in entries:
                await self._write(tenant_id, [entry])

    async def _within_attempts(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that may be tried; those that took their workers down too often end here."""
        for job in jobs:
            if job.attempts > MAX_ATTEMPTS:
                await self._settle(job, None)
        return [job for job in jobs if job.attempts <= MAX_ATTEMPTS]

    async def _settle(self, job: Job, error: Exception | None) -> None:
        """Write down what became of a job; if even that fails, its lease runs out and another worker takes it."""
        try:
            await self._settle_by_error(job, error)
        except LeaseLostError:
            _log.info("job_lost", document_id=str(job.key.document_id), version=job.key.version)
        except Exception:  # noqa: BLE001 - logged with its traceback; the lease decides
            _log.exception("job_not_settled", document_id=str(job.key.document_id), version=job.key.version)

    async def _settle_by_error(self, job: Job, error: Exception | None) -> None:
        where = {"document_id": str(job.key.document_id), "version": job.key.version, "tenant_id": str(job.key.tenant_id)}
        if isinstance(error, LeaseLostError):
            raise error
        if isinstance(error, MalwareFoundError):
            _log.warning("malware_found", signature=error.signature, **where)
            # If the process ends between the two, the file has no row any more and is swept with the orphans.
            key = await self._jobs.quarantine(job, error)
            await self._blobs.move(_blob_key(job), key)
        elif isinstance(error, RejectedError):
            _log.info("document_rejected", reason_code=error.code, **where)
            await self._jobs.reject(job, error.code, error.reason)
        elif isinstance(error, FileNotFoundError):
            _log.error("document_file_missing", **where)
            await self._jobs.fail(job, "document_file_missing", "The uploaded file is no longer there. Upload it again.")
        elif isinstance(error, WireroomError) and error.kind in _OUTSIDE:
            if await self._jobs.age_seconds(job) > _MAX_AGE:
                await self._jobs.fail(
                    job, "dependency_unavailable", "A part of the system did not answer for a day. Upload it again."
                )
            else:
                _log.warning("job_postponed", error=error.code, **where)
                await self._jobs.retry_later(job, max(1.0, error.retry_after), counted=False)
        elif error is not None and job.attempts < MAX_ATTEMPTS:
            _log.warning("job_failed_once", attempt=job.attempts, exc_info=error, **where)
            await self._jobs.retry_later(job, min(_LONGEST_WAIT, 0.5 * 2**job.attempts), counted=True)
        else:
            _log.error("document_failed", attempts=job.attempts, exc_info=error, **where)
            await self._jobs.fail(
                job, "processing_failed", f"Processing failed {MAX_ATTEMPTS} times. Upload it again, or ask your administrator."
            )


def _blob_key(job: Job) -> str:
    if job.blob_key is None:
        msg = "A document's version has no file."
        raise FileNotFoundError(msg)
    return job.blob_key
