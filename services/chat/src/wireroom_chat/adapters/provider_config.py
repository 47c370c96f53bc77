"""The configured providers, from all their sources, as one snapshot that changes while the process runs.

Precedence, for providers and for aliases by name: the setting, then the file, then what is managed by API. A source that cannot be used
(a mistake in the file, no database) leaves what was read from it last in force.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from pydantic import SecretStr, ValidationError

from wireroom_chat.adapters.provider_file import FileDocument, ProvidersFileError, parse, read_text
from wireroom_chat.adapters.provider_health import CandidateKey
from wireroom_chat.adapters.provider_keys import read_key
from wireroom_chat.adapters.provider_metrics import ProviderMetrics
from wireroom_chat.adapters.provider_store import ProviderStore, StoredConfig
from wireroom_chat.adapters.providers.anthropic import VERSION, AnthropicProvider
from wireroom_chat.adapters.providers.http import Endpoint, ProviderHttp, ProviderSessions
from wireroom_chat.adapters.providers.openai import OpenAiProvider
from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_chat.domain.providers import Alias, Candidate, Wire
from wireroom_chat.settings import ProviderSettings
from wireroom_chat.usecases.provider_documents import ANONYMOUS_KEY, AliasDocument, ModelDocument, ProviderDocument
from wireroom_chat.usecases.provider_snapshot import ConfiguredProvider, NamedKey, Snapshot
from wireroom_common.bus.envelope import Envelope
from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError

POLL_SECONDS = 2.0
EVENTS = frozenset({"chat.providers.changed"})

log = structlog.get_logger()

ProviderClient = OpenAiProvider | AnthropicProvider


class ConfiguredDirectory:
    """`ProviderDirectory` over the settings, a file and the database."""

    def __init__(
        self,
        settings: Sequence[ProviderSettings],
        *,
        default_model: str,
        timeouts: ProviderTimeouts,
        file: Path | None,
        store: ProviderStore | None,
        sessions: ProviderSessions,
        clock: Clock,
        metrics: ProviderMetrics,
        exhausted: Callable[[CandidateKey, float], None] = lambda _key, _seconds: None,
    ) -> None:
        self._default_model = default_model
        self._timeouts = timeouts
        self._path = file
        self._store = store
        self._sessions = sessions
        self._clock = clock
        self._metrics = metrics
        self._exhausted = exhausted
        self._wake = asyncio.Event()
        self._from_settings = tuple(_of_settings(entry, timeouts) for entry in settings)
        self._seen = b""
        self._document_changed = False
        self._document: FileDocument | None = None
        self._from_file: tuple[ConfiguredProvider, ...] = ()
        self._refusal = ""
        self._stored = StoredConfig(-1, (), {})
        self._made: dict[tuple[str, str], tuple[ConfiguredProvider, ProviderClient]] = {}
        self._current: Mapping[tuple[str, str], ProviderClient] = {}
        self._previous: Mapping[tuple[str, str], ProviderClient] = {}
        if file is not None:
            self._take_file(read_text(file))
        if default_model and store is None:
            # Nothing can bring the model later.
            self._snapshot_of(strict=True)
        self._snapshot = self._snapshot_of()

    def catalogue(self) -> Catalogue:
        return self._snapshot.catalogue

    def provider(self, candidate: Candidate) -> ProviderClient:
        place = (candidate.model.provider, candidate.key)
        client = self._current.get(place) or self._previous.get(place)
        if client is None:
            raise WireroomError(
                ErrorKind.UNAVAILABLE, "provider_gone", f"The provider '{candidate.model.provider}' was taken away; try again."
            )
        return client

    def snapshot(self) -> Snapshot:
        """The configuration as it is in force."""
        return self._snapshot

    @property
    def bad(self) -> bool:
        """Whether a source as it is now cannot be used."""
        return bool(self._refusal)

    async def start(self) -> None:
        """Read the database for the first time; without it the other sources are in force until it is there."""
        await self.poll()

    async def run(self) -> None:
        """Wait for news, at most `POLL_SECONDS`, and read what changed."""
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        await self.poll()

    async def on_event(self, envelope: Envelope) -> None:
        """Another replica changed the configuration."""
        del envelope
        self._wake.set()

    async def poll(self) -> None:
        """Look at the file, the keys' places and the database once."""
        changed = False
        if self._path is not None:
            changed = await self._poll_file(self._path)
        if self._store is not None:
            try:
                if await self._store.revision() != self._stored.revision:
                    self._stored = await self._store.load()
                    changed = True
            except WireroomError as error:
                log.warning("providers.database.unread", code=error.code)
        if changed:
            # A call under way may still ask for a provider that has just gone.
            self._previous = self._current
            self._snapshot = self._snapshot_of()
            self._metrics.config_loads.labels("loaded").inc()
            log.info("providers.loaded", providers=len(self._snapshot.providers), problems=list(self._snapshot.problems))
        self._metrics.config_bad.set(1 if self._refusal or self._snapshot.problems else 0)

    async def _poll_file(self, path: Path) -> bool:
        """Whether something changed. The content counts, not the time of the change: a mounted volume swaps links."""
        before = self._from_file
        try:
            await asyncio.to_thread(lambda: self._take_file(read_text(path)))
        except ProvidersFileError as error:
            if self._refusal != str(error):
                log.exception("providers.file.refused", reason=str(error))
                self._metrics.config_loads.labels("refused").inc()
            self._refusal = str(error)
            return False
        self._refusal = ""
        return self._from_file != before or self._document_changed

    def _take_file(self, text: bytes) -> None:
        """All of it or nothing. Keys are read each time, because their files change on their own."""
        digest = hashlib.sha256(text).digest()
        self._document_changed = digest != self._seen
        document = parse(text, str(self._path)) if self._document_changed or self._document is None else self._document
        providers: list[ConfiguredProvider] = []
        for name, entry in document.providers.items():
            try:
                keys = tuple(
                    NamedKey(key, SecretStr(read_key(name, key, place)), place.weight, "environment" if place.env else "file")
                    for key, place in entry.places().items()
                )
            except ValueError as error:
                raise ProvidersFileError(f"{self._path}: {error}") from None
            providers.append(_of_document(name, "file", entry, keys, defaults=self._timeouts))
        self._seen, self._document, self._from_file = digest, document, tuple(providers)

    def _snapshot_of(self, *, strict: bool = False) -> Snapshot:
        problems: list[str] = []
        providers: dict[str, ConfiguredProvider] = {}
        for provider in (*self._from_settings, *self._from_file, *self._of_database(problems)):
            if provider.name in providers:
                problems.append(
                    f"the provider '{provider.name}' of the {provider.source} is hidden by that of the {providers[provider.name].source}"
                )
                continue
            providers[provider.name] = provider
        candidates = [
            Candidate(model, key.name, key.weight)
            for provider in providers.values()
            if provider.enabled and not provider.problem
            for model in provider.models
            for key in provider.keys
        ]
        by_id: dict[str, list[Candidate]] = {}
        for candidate in candidates:
            by_id.setdefault(candidate.model.id, []).append(candidate)
        aliases: list[Alias] = []
        sources: dict[str, str] = {}
        for name, source, document in self._aliases(problems):
            if name in sources:
                problems.append(f"the alias '{name}' of the {source} is hidden by that of the {sources[name]}")
                continue
            try:
                aliases.append(document.alias(name, by_id))
                sources[name] = source
            except ValueError as error:
                problems.append(str(error))
        known = (
            {candidate.model.id for candidate in candidates} | {candidate.model.name for candidate in candidates} | set(sources)
        )
        default = self._default_model
        if default not in known and default and not strict:
            problems.append(f"the default model '{default}' is not offered by any configured provider")
            default = ""
        catalogue = Catalogue(candidates, aliases, default)
        self._current = self._clients(providers.values())
        return Snapshot(tuple(providers.values()), catalogue, sources, tuple(problems))

    def _of_database(self, problems: list[str]) -> list[ConfiguredProvider]:
        found: list[ConfiguredProvider] = []
        for stored in self._stored.providers:
            try:
                document = ProviderDocument.model_validate(stored.document)
            except ValidationError:
                problems.append(f"the stored provider '{stored.name}' is not understood by this version; write it anew")
                continue
            keys: list[NamedKey] = []
            problem = stored.problem
            for name, place in document.places().items():
                if place.env is not None:
                    try:
                        secret = read_key(stored.name, name, place)
                    except ValueError as error:
                        problem = str(error)
                        continue
                    keys.append(NamedKey(name, SecretStr(secret), place.weight, "environment"))
                elif name in stored.keys:
                    keys.append(NamedKey(name, SecretStr(stored.keys[name]), place.weight, "database"))
            if problem:
                problems.append(f"the provider '{stored.name}' is not in use: {problem}")
            found.append(_of_document(stored.name, "database", document, tuple(keys), defaults=self._timeouts, problem=problem))
        return found

    def _aliases(self, problems: list[str]) -> list[tuple[str, str, AliasDocument]]:
        found = [(name, "file", alias) for name, alias in (self._document.aliases if self._document else {}).items()]
        for name, document in self._stored.aliases.items():
            try:
                found.append((name, "database", AliasDocument.model_validate(document)))
            except ValidationError:
                problems.append(f"the stored alias '{name}' is not understood by this version; write it anew")
        return found

    def _clients(self, providers: Iterable[ConfiguredProvider]) -> Mapping[tuple[str, str], ProviderClient]:
        """One per provider and key; what did not change keeps its client, and what that has learnt."""
        made: dict[tuple[str, str], tuple[ConfiguredProvider, ProviderClient]] = {}
        for provider in providers:
            for key in provider.keys:
                place = (provider.name, key.name)
                kept = self._made.get(place)
                made[place] = kept if kept is not None and kept[0] == provider else (provider, self._client(provider, key))
        self._made = made
        return {place: client for place, (_, client) in made.items()}

    def _client(self, provider: ConfiguredProvider, key: NamedKey) -> ProviderClient:
        secret = key.secret.get_secret_value() if key.secret is not None else ""
        headers: dict[str, str] = {}
        if provider.wire is Wire.ANTHROPIC:
            headers = {"anthropic-version": VERSION, **({"x-api-key": secret} if secret else {})}
        elif secret:
            headers = {"Authorization": f"Bearer {secret}"}
        http = ProviderHttp(
            Endpoint(provider.name, provider.base_url, headers, provider.timeouts),
            self._sessions,
            self._clock,
            exhausted=lambda model, seconds: self._exhausted((provider.name, model, key.name), seconds),
        )
        if provider.wire is Wire.ANTHROPIC:
            return AnthropicProvider(http, self._clock, {model.name: model.max_output_tokens for model in provider.models})
        return OpenAiProvider(http, own_house=urlsplit(provider.base_url).hostname == "api.openai.com")


def _of_settings(entry: ProviderSettings, defaults: ProviderTimeouts) -> ConfiguredProvider:
    timeouts = ProviderTimeouts(defaults.connect, defaults.first_byte, defaults.idle, entry.timeout)
    keys = (NamedKey(ANONYMOUS_KEY, entry.api_key, 1, "environment" if entry.api_key_env else "settings"),)
    models = tuple(ModelDocument.model_validate({}).model(entry.name, model, local=entry.local) for model in entry.models)
    return ConfiguredProvider(entry.name, "settings", entry.wire, entry.base_url, keys, models, timeouts, local=entry.local)


def _of_document(
    name: str,
    source: str,
    document: ProviderDocument,
    keys: tuple[NamedKey, ...],
    *,
    defaults: ProviderTimeouts,
    problem: str = "",
) -> ConfiguredProvider:
    own = document.timeouts
    return ConfiguredProvider(
        name=name,
        source=source,
        wire=document.speaks,
        base_url=document.address,
        keys=keys or (NamedKey(ANONYMOUS_KEY, None, 1, "none"),),
        models=tuple(model.model(name, model_name, local=document.local) for model_name, model in document.models.items()),
        timeouts=ProviderTimeouts(
            own.connect or defaults.connect,
            own.first_token or defaults.first_byte,
            own.idle or defaults.idle,
            own.total or defaults.total,
        ),
        preset=document.preset or "",
        enabled=document.enabled,
        problem=problem,
        local=document.local,
    )
