"""Take leased versions through their states. Every step can be repeated: a job that lost its worker starts where its row stands."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_rag.chunking import Chunker
from wireroom_rag.domain.document import Chunk, ExtractedText, Job, LeaseLostError, MalwareFoundError, RejectedError, State
from wireroom_rag.domain.headings import title_terms
from wireroom_rag.domain.lexicon import Lexicon
from wireroom_rag.domain.passage import IndexEntry, Vectors
from wireroom_rag.extraction.text import stored_text
from wireroom_rag.ports.documents import BlobStore
from wireroom_rag.ports.generations import TenantVectors
from wireroom_rag.ports.index import IndexWriter
from wireroom_rag.ports.processing import ArticleSource, ArticleText, Extractor, JobStates, Scanner

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
class _Cut:
    found: ExtractedText
    chunks: list[Chunk]
    terms: list[Counter[str]]
    title_terms: list[Counter[str]]


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
        vectors: TenantVectors,
        chunker: Callable[[], Chunker],
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
        self._vectors = vectors
        self._chunker = chunker
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
        chunker = self._chunker()
        chunks: list[Chunk] = []
        terms: list[Counter[str]] = []
        for start, end in chunker.stretches(found):
            cut = await asyncio.to_thread(_cut, functools.partial(chunker.chunks, found, start, end))
            chunks += cut[0]
            terms += cut[1]
        await self._jobs.chunked(job, len(chunks))
        vectors = await self._vectors.of(job.key.tenant_id, [chunk.text for chunk in chunks])
        await self._jobs.embedded(job)
        titles = await asyncio.to_thread(title_terms, job.title, found.content, chunks)
        entry = IndexEntry(job, chunks, vectors, terms, titles)
        await self._index.write(job.key.tenant_id, [entry])

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
        cuts: list[tuple[_Fetched, _Cut]] = []
        for item in fetched:
            try:
                cuts.append((item, await asyncio.to_thread(self._cut_article, item.article)))
            except Exception as error:  # noqa: BLE001 - settled here, for this job alone
                await self._settle(item.job, error)
        entries: list[IndexEntry] = []
        for tenant_id in dict.fromkeys(item.job.key.tenant_id for item, _ in cuts):
            own = [(item, cut) for item, cut in cuts if item.job.key.tenant_id == tenant_id]
            try:
                vectors = await self._vectors.of(tenant_id, [chunk.text for _, cut in own for chunk in cut.chunks])
            except Exception as error:  # noqa: BLE001 - concerns all of them
                for item, _ in own:
                    await self._settle(item.job, error)
                continue
            entries += _entries(own, vectors)
        return entries

    def _cut_article(self, article: ArticleText) -> _Cut:
        # The title is part of the text, so that it is found, cited and counted like the rest.
        parts = [article.title, article.text] if not article.text.startswith(article.title) else [article.text]
        found = stored_text(["\n\n".join(parts)], paged=False, max_characters=self._max_characters)
        chunks, terms = _cut(lambda: self._chunker().all_chunks(found))
        return _Cut(found, chunks, terms, title_terms(article.title, found.content, chunks))

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


def _entries(cuts: Sequence[tuple[_Fetched, _Cut]], vectors: Mapping[int, Vectors]) -> list[IndexEntry]:
    entries: list[IndexEntry] = []
    first = 0
    for item, cut in cuts:
        last = first + len(cut.chunks)
        article = item.article
        entries.append(
            IndexEntry(
                item.job,
                cut.chunks,
                {number: found[first:last] for number, found in vectors.items()},
                cut.terms,
                cut.title_terms,
                cut.found,
                title=article.title,
                url=article.url,
            )
        )
        first = last
    return entries


def _blob_key(job: Job) -> str:
    if job.blob_key is None:
        msg = "A document's version has no file."
        raise FileNotFoundError(msg)
    return job.blob_key


def _cut(cut: Callable[[], list[Chunk]]) -> tuple[list[Chunk], list[Counter[str]]]:
    chunks = cut()
    lexicon = Lexicon()
    return chunks, [lexicon.terms(chunk.text) for chunk in chunks]
