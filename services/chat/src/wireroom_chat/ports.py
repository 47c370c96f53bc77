"""What the use cases need from outside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from wireroom_chat.domain.assistants import Assistant, AssistantConfig, AssistantVersion
from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.frames import Frame
from wireroom_chat.domain.passages import Citation, Passage, Quote, Span
from wireroom_chat.domain.providers import Candidate, Strategy
from wireroom_chat.domain.request import Grounding
from wireroom_common.errors import WireroomError
from wireroom_common.principal import Principal


class Retrieval(Protocol):
    """Searches the caller's sources and checks quotes against the stored texts."""

    async def retrieve(self, query: str, grounding: Grounding) -> list[Passage]:
        """The best passages, best first, at most `grounding.top_k`."""

    async def verify(self, quotes: Sequence[Quote]) -> list[Citation | None]:
        """One entry per quote, in order: None where the quote does not stand in the stored text."""

    async def stand(self, spans: Sequence[Span]) -> bool:
        """Whether each span still stands in the stored text, and the caller may read it."""


class ChatProvider(Protocol):
    """One provider through one of its keys; takes and gives OpenAI's shapes, whatever it speaks itself.

    Failures are WireroomErrors that name the provider, never its words.
    """

    async def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The chat completion object; `choices` is a list that is not empty."""

    def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks in order; each has a `choices` list. Closing the generator closes the connection at once."""


class Embeddings(Protocol):
    """Turns texts into vectors, in OpenAI's shapes."""

    async def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The embedding object for `input` (a text, texts, or tokens where the model takes them); failures are WireroomErrors."""


class Provider(ChatProvider, Embeddings, Protocol):
    """All that one provider does."""


class ProviderDirectory(Protocol):
    """The configured providers, as of now."""

    def catalogue(self) -> Catalogue:
        """The current snapshot; no I/O."""

    def provider(self, candidate: Candidate) -> Provider:
        """The provider of a candidate of the current or a recent snapshot; UNAVAILABLE `provider_gone` when it was taken away."""


class ProviderHealth(Protocol):
    """What is known of candidates from recent calls, on all replicas. Cheap calls without I/O."""

    def order(self, candidates: Sequence[Candidate], strategy: Strategy) -> list[Candidate]:
        """All of them in the order in which to try them: usable ones by the strategy, then those in cooldown."""

    def blocked_for(self, candidate: Candidate) -> float:
        """Seconds for which it had better not be called; 0 when it may."""

    def began(self, candidate: Candidate) -> None:
        """It is being called now: after a failure only one call at a time may find out whether it works again."""

    def succeeded(self, candidate: Candidate, *, first_token_seconds: float, tokens_out: int, seconds: float) -> None:
        """A call ended well."""

    def failed(self, candidate: Candidate, error: WireroomError) -> None:
        """A call ended badly, for a reason that lies with the provider."""


@dataclass(frozen=True)
class Origin:
    """What a generation is for: the kind names its sink ("openai": nobody else waits for the answer), the id is the sink's."""

    kind: str = "openai"
    id: str = ""


@dataclass(frozen=True)
class Generation:
    """One completion, as its row knows it from the start. `key_id`: the API key it is made with, if any."""

    id: UUID
    tenant_id: UUID
    user_id: UUID
    key_id: UUID | None
    completion_id: str
    model: str
    started_at: datetime
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class UsagePart:
    """What one call of a provider used: a generation has several after retries and failovers.

    `reported`: the token counts are the provider's own. `counted_out` is our count of what arrived. Micro-units of the currency.
    """

    number: int
    provider: str
    model: str
    key: str
    tokens_in: int
    tokens_out: int
    reported: bool
    counted_out: int
    micros: int
    price_version: str
    # "completed", "failed" or "cancelled"
    status: str
    error_code: str
    first_token_milliseconds: int


@dataclass(frozen=True)
class Settlement:
    """How a completion ended. `status` is "completed", "failed" or "cancelled". Tokens and micro-units are sums over the parts."""

    status: str
    answer_mode: str
    error_code: str
    parts: tuple[UsagePart, ...]
    tokens_in: int
    tokens_out: int
    micros: int
    citations: int
    # "hit", "semantic", "miss", or empty where the cache has no part
    cache: str
    first_token_milliseconds: int
    milliseconds: int
    finished_at: datetime

    @property
    def path(self) -> tuple[str, ...]:
        """The models tried, in order."""
        return tuple(f"{part.provider}/{part.model}" for part in self.parts)

    @property
    def provider(self) -> str:
        """Who answered in the end; "wireroom" when nobody else was asked."""
        return self.parts[-1].provider if self.parts else "wireroom"


class GenerationLedger(Protocol):
    """A row per completion; its end, its usage and the events that tell of it are one transaction."""

    def binds(self, generation: Generation) -> bool:
        """Whether a budget may bind who pays for it; no I/O, at most seconds old."""

    async def start(self, generation: Generation) -> None:
        """Write the row of a running completion."""

    async def reserve(self, generation: Generation, micros: int) -> int:
        """Add to what is set aside for it; returns what is left of the tightest budget after that.

        RATE_LIMITED `insufficient_quota`, with nothing set aside, when a cap would be passed.
        """

    async def settle(self, generation: Generation, settlement: Settlement) -> None:
        """Close the row, book its parts, release what was set aside, emit the events; nothing when the row is already closed."""


@dataclass(frozen=True)
class Outcome:
    """The whole answer at its end. `message` is that of the completion object (with tool calls), None where nothing was answered."""

    status: str
    text: str
    message: Mapping[str, Any] | None
    annotations: Sequence[Mapping[str, Any]]
    finish_reason: str
    answer_mode: str
    path: tuple[str, ...]
    tokens_in: int
    tokens_out: int
    micros: int
    error_code: str


class AnswerSink(Protocol):
    """Somebody who keeps answers: a session, a stored response, the cache."""

    async def finished(self, generation: Generation, outcome: Outcome) -> None:
        """Called once the answer has ended, before it is settled; perhaps again after a crash: it must not matter."""


@dataclass(frozen=True)
class StreamRecord:
    """What a replica leaves behind of a stream, so that another one can serve it or take it up.

    `checkpoint` None: too large to be kept. It holds what people wrote, and is stored sealed.
    """

    principal: Principal
    generation: Generation
    grace: float
    checkpoint: Mapping[str, Any] | None


@dataclass(frozen=True)
class StreamState:
    """What is known of a buffered stream. `orphaned`: it has not ended, and the replica that ran it is gone."""

    user_id: UUID
    ended: bool
    orphaned: bool


class BufferedStream(Protocol):
    """A stream this replica writes to."""

    @property
    def key(self) -> tuple[UUID, str]:
        """Tenant and stream id."""


@dataclass(frozen=True)
class ClaimedStream:
    """A stream taken over from a replica that is gone. `frames`: what is left of it, oldest first."""

    handle: BufferedStream
    record: StreamRecord
    frames: Sequence[Frame]


class Written(Enum):
    """What became of frames: `MOVED` when another replica has taken the stream over, `GONE` when the buffer forgot it."""

    YES = "yes"
    MOVED = "moved"
    GONE = "gone"


class StreamBufferError(Exception):
    """The buffer cannot be reached, or holds what cannot be read."""


class StreamBuffer(Protocol):
    """The frames of streams outside of the process, for all replicas. Every call may raise StreamBufferError."""

    def handle(self, record: StreamRecord) -> BufferedStream:
        """For a new stream; it is known to others from its first `append` on."""

    async def append(self, batches: Sequence[tuple[BufferedStream, Sequence[Frame]]]) -> list[Written]:
        """Add frames, in one round trip; repeating frames does not matter."""

    async def forget(self, streams: Sequence[BufferedStream]) -> None:
        """What is there of these streams is not complete: remove it, unless another replica has taken them over."""

    async def state(self, tenant_id: UUID, stream_id: str) -> StreamState | None:
        """None for a stream that is not there (any more)."""

    async def read(self, tenant_id: UUID, stream_id: str, after_seq: int) -> list[Frame]:
        """Some frames after `after_seq`, in order; none when there are none yet. Where the first one's number is greater, some are gone."""

    async def wait(self, tenant_id: UUID, stream_id: str, after_seq: int, seconds: float) -> list[Frame]:
        """As `read`, but waits for frames; none when none came."""

    async def claim(self, tenant_id: UUID, stream_id: str) -> ClaimedStream | None:
        """Take a stream over from a replica that is gone; None when it is not orphaned or another replica was faster."""

    async def orphans(self, older_than: float, limit: int) -> list[tuple[UUID, str]]:
        """Streams whose replica has given no sign of life for so many seconds."""

    async def beat(self) -> list[tuple[UUID, str]]:
        """Give a sign of life; returns the streams that others asked this replica to cancel."""

    async def ask_to_cancel(self, tenant_id: UUID, stream_id: str) -> None:
        """Tell the replica that runs the stream."""

    async def leave(self) -> None:
        """This replica ends; what it still runs may be taken over at once."""


@dataclass(frozen=True)
class Artefact:
    """A file that a tool made for its user."""

    id: UUID
    name: str
    media_type: str
    data: bytes
    created_at: datetime
    expires_at: datetime


class ArtefactStore(Protocol):
    """Keeps artefacts until they expire; only their owner reaches them."""

    async def keep(self, tenant_id: UUID, user_id: UUID, name: str, media_type: str, data: bytes) -> Artefact:
        """Store it; RATE_LIMITED `artefacts_exhausted` when the user has too many that have not expired."""

    async def get(self, tenant_id: UUID, user_id: UUID, artefact_id: UUID) -> Artefact:
        """NOT_FOUND for everybody but its owner, and after its time."""


@dataclass(frozen=True)
class Owner:
    """Whose it is; nobody else reaches it."""

    tenant_id: UUID
    user_id: UUID


@dataclass(frozen=True)
class StoredResponse:
    """A response of the Responses API, and the items it was made from; both as JSON."""

    id: UUID
    previous_id: UUID | None
    created_at: datetime
    items: bytes
    response: bytes


class ResponseStore(Protocol):
    """Keeps responses until they are deleted or expire."""

    async def add(self, owner: Owner, response: StoredResponse) -> None:
        """Store it."""

    async def get(self, owner: Owner, response_id: UUID) -> StoredResponse | None:
        """None if there is none, or it is somebody else's."""

    async def delete(self, owner: Owner, response_id: UUID) -> bool:
        """False if there was none."""

    async def conversation(self, owner: Owner, response_id: UUID) -> list[StoredResponse]:
        """It and those before it, oldest first; the oldest still names a `previous_id` when that one is gone or there are too many."""


class AssistantStore(Protocol):
    """The assistants of tenants. Each call is one transaction; changes are audited in it."""

    async def all(self, tenant_id: UUID) -> list[Assistant]:
        """All of them with their active versions."""

    async def find(self, tenant_id: UUID, name: str) -> Assistant | None:
        """One of them with its newest versions and all active ones."""

    async def version(self, tenant_id: UUID, name: str, number: int) -> AssistantVersion | None:
        """One version."""

    async def add_version(
        self,
        tenant_id: UUID,
        user_id: UUID,
        name: str,
        config: AssistantConfig,
        *,
        weights: Mapping[int, int] | None,
        create: bool,
    ) -> AssistantVersion:
        """The next version; `weights` for an assistant that is not there yet: None stands for this version alone.

        `create`: CONFLICT `assistant_exists` if it is there. Otherwise it is made or extended.
        """

    async def set_weights(self, tenant_id: UUID, user_id: UUID, name: str, weights: Mapping[int, int], *, built_in: bool) -> None:
        """Give the versions their shares. `built_in`: make the row of an assistant that is shipped, if there is none."""

    async def delete(self, tenant_id: UUID, user_id: UUID, name: str) -> bool:
        """Whether it was there."""
