"""Where providers come from, what wins, how soon changes are seen, and what operators can do by API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from sqlalchemy import text

from wireroom_chat.adapters.provider_config import ConfiguredDirectory
from wireroom_chat.adapters.provider_file import ProvidersFileError, parse
from wireroom_chat.adapters.provider_health import SharedHealth
from wireroom_chat.adapters.provider_keys import KeySafe
from wireroom_chat.adapters.provider_metrics import ProviderMetrics
from wireroom_chat.adapters.provider_store import ProviderStore
from wireroom_chat.adapters.providers.http import GuardedResolver, ProviderSessions
from wireroom_chat.domain.provider_address import check_address
from wireroom_chat.domain.provider_timeouts import ProviderTimeouts
from wireroom_chat.domain.providers import Price, Strategy
from wireroom_chat.settings import ProviderSettings
from wireroom_chat.transport.providers import ProviderServicer
from wireroom_chat.usecases.managing_providers import ManageProviders
from wireroom_chat.usecases.provider_documents import PRESETS, ProviderDocument
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind, set_current_principal
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_common.testing.scripted_provider import ScriptedProvider
from wireroom_protos.chat.v1 import providers_pb2

EXAMPLE = Path(__file__).parents[3] / "docs" / "how-to" / "providers.example.yaml"
TENANT = UUID("0198a000-0000-7000-8000-000000000001")
OTHER = UUID("0198a000-0000-7000-8000-000000000002")
OPERATOR = Principal(PrincipalKind.USER, str(UUID(int=1)), OTHER, permissions=frozenset({"providers:manage"}))
NOBODY = "redis://127.0.0.1:1/0"
SECRET = "sk-canary-0f3a"
MINIMAL = "version: 1\nproviders:\n  house:\n    base_url: http://127.0.0.1:9/v1\n    models: {m1: {}}\n"


def directory(
    settings: list[dict[str, Any]] | None = None,
    *,
    file: Path | None = None,
    store: ProviderStore | None = None,
    default: str = "",
) -> ConfiguredDirectory:
    return ConfiguredDirectory(
        [ProviderSettings.model_validate(entry) for entry in settings or []],
        default_model=default,
        timeouts=ProviderTimeouts(1.0, 2.0, 2.0, 3.0),
        file=file,
        store=store,
        sessions=ProviderSessions(max_connections=5),
        clock=SystemClock(),
        metrics=ProviderMetrics(CollectorRegistry()),
    )


def store_of(database: Database, master: bytes = b"master secret of the test") -> ProviderStore:
    return ProviderStore(database, KeySafe(lambda: master))


def ids(configured: ConfiguredDirectory) -> list[str]:
    return [model.id for model in configured.catalogue().models()]


async def test_example_file_is_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for preset in PRESETS.values():
        if preset.key_env:
            monkeypatch.setenv(preset.key_env, f"key of {preset.key_env}")
    (tmp_path / "spare").write_text("sk-spare\n")
    path = tmp_path / "providers.yaml"
    path.write_text(EXAMPLE.read_text().replace("/run/secrets/groq-spare", str(tmp_path / "spare")))
    catalogue = directory(file=path).catalogue()
    cheap = catalogue.route("cheap", None)
    assert (cheap.strategy, next(item.label for item in cheap.candidates)) == (Strategy.CHEAPEST, "house/qwen2.5-7b")
    mini = catalogue.route("gpt-4o-mini", None).candidates[0].model
    assert (mini.price, mini.context_tokens) == (Price(150_000, 600_000), 128_000)
    groq = catalogue.route("groq/llama-3.1-8b-instant", None)
    assert (groq.strategy, [(item.key, item.weight) for item in groq.candidates]) == (
        Strategy.WEIGHTED,
        [("main", 3), ("spare", 1)],
    )
    assert [item.label for item in catalogue.embedding("text-embedding-3-small").candidates] == ["openai/text-embedding-3-small"]
    internal = catalogue.route("internal", None, TENANT)
    assert [(item.label, item.key, item.weight) for item in internal.candidates] == [
        ("house/qwen2.5-7b", "default", 9),
        ("groq/llama-3.1-8b-instant", "main", 3),
    ]
    assert "internal" in [entry.id for entry in catalogue.listed(TENANT)]
    assert "internal" not in [entry.id for entry in catalogue.listed(OTHER)]
    for tenant in (OTHER, None):
        with pytest.raises(WireroomError, match="model_not_found"):
            catalogue.route("internal", None, tenant)
    with pytest.raises(WireroomError, match="model_unsuited"):
        catalogue.route("text-embedding-3-small", None)


@pytest.mark.parametrize(
    ("text_of_file", "told"),
    [
        ("version: 2\n", "line 1: version: write 1"),
        ("version: 1\nprovider: {}\n", "line 2: provider: is not known here"),
        (MINIMAL.replace("http:", "ftp:"), "line 4: providers.house.base_url: write an address that begins with http"),
        (MINIMAL.replace("127.0.0.1", "169.254.169.254"), "line 4: providers.house.base_url: link-local and metadata addresses"),
        (MINIMAL.replace("127.0.0.1", "me:pw@h"), "line 4: providers.house.base_url: an address with a user name"),
        (MINIMAL + "    models: {}\n", "line 6: 'models' stands here a second time"),
        (MINIMAL.replace("{m1: {}}", "{m1: {input_micros: 1}}"), "write output_micros beside input_micros"),
        (
            MINIMAL.replace("{m1: {}}", "{m1: {input_micros: 1.5, output_micros: 1}}"),
            "line 5: providers.house.models.m1.input_micros",
        ),
        (MINIMAL + "    keys:\n      a: {}\n", "line 7: providers.house.keys.a: write env or file"),
        (MINIMAL + "    keys:\n      a: {value: sk-canary}\n", "line 7: providers.house.keys.a.value: is not known here"),
        (MINIMAL + "aliases:\n  x: {candidates: [house/m2]}\n", "line 7: aliases.x.candidates.0: 'house' has no model 'm2'"),
        (MINIMAL + "aliases:\n  grounded: {candidates: [house/m1]}\n", "line 7: aliases.grounded"),
        (
            MINIMAL + "aliases:\n  x: {strategy: best, candidates: [house/m1]}\n",
            "line 7: aliases.x.strategy: is not known; there are ordered",
        ),
        (MINIMAL.replace("house", "wireroom"), "line 3: providers.wireroom"),
    ],
)
def test_mistakes_are_told_with_their_line_and_never_with_values(text_of_file: str, told: str) -> None:
    with pytest.raises(ProvidersFileError) as caught:
        parse(text_of_file.encode(), "providers.yaml")
    assert told in str(caught.value)
    assert "sk-canary" not in str(caught.value)


@given(st.binary(max_size=200) | st.text("version: 1\n{}[]-&*!a", max_size=80).map(str.encode))
def test_any_bytes_are_a_file_or_a_clear_refusal(content: bytes) -> None:
    try:
        told = f"f: version {parse(content, 'f').version}"
    except ProvidersFileError as error:
        told = str(error)
    assert told.startswith("f: ")


async def test_file_is_followed_and_a_bad_one_keeps_the_last_good(tmp_path: Path) -> None:
    path = tmp_path / "providers.yaml"
    path.write_text(MINIMAL)
    configured = directory(file=path)
    assert ids(configured) == ["house/m1"]
    kept = configured.provider(configured.catalogue().candidates()[0])
    path.write_text(MINIMAL.replace("{m1: {}}", "{m1: {}, m2: {}}"))
    await configured.poll()
    assert ids(configured) == ["house/m1", "house/m2"]
    assert configured.provider(configured.catalogue().candidates()[0]) is not kept
    for bad in ("version: [", MINIMAL + "    oops: 1\n"):
        path.write_text(bad)
        await configured.poll()
        assert configured.bad
        assert ids(configured) == ["house/m1", "house/m2"]
    path.unlink()
    await configured.poll()
    assert configured.bad
    path.write_text(MINIMAL)
    await configured.poll()
    assert (configured.bad, ids(configured)) == (False, ["house/m1"])


async def test_key_file_that_changes_is_taken_over(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sk-one\n")
    path = tmp_path / "providers.yaml"
    async with ScriptedProvider() as scripted:
        path.write_text(
            f"version: 1\nproviders:\n  p:\n    base_url: {scripted.base_url}\n    keys: {{a: {{file: {key}}}}}\n    models: {{m: }}\n"
        )
        configured = directory(file=path)
        await configured._sessions.start()  # noqa: SLF001 - the runtime does that
        for value in ("sk-one", "sk-two"):
            key.write_text(value)
            await configured.poll()
            candidate = configured.catalogue().candidates()[0]
            await configured.provider(candidate).complete({"model": "m", "messages": [{"role": "user", "content": "Hi"}]})
        assert [item.authorization for item in scripted.requests] == ["Bearer sk-one", "Bearer sk-two"]
        await configured._sessions.stop()  # noqa: SLF001


def test_missing_key_stops_the_start_with_the_variables_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    path = tmp_path / "providers.yaml"
    path.write_text("version: 1\nproviders:\n  groq: {preset: groq, models: {m: }}\n")
    with pytest.raises(ProvidersFileError, match="GROQ_API_KEY"):
        directory(file=path)


async def test_setting_wins_over_file_wins_over_database(tmp_path: Path, migrated_database: MigratedDatabase) -> None:
    store = store_of(await migrated_database("chat"))
    for name in ("house", "own"):
        await store.put_provider(name, {"base_url": "http://127.0.0.1:7/v1", "models": {"db": {}}}, {}, "t")
    path = tmp_path / "providers.yaml"
    path.write_text(MINIMAL + "  env: {base_url: 'http://127.0.0.1:8/v1', models: {m: }}\n")
    setting = {"name": "env", "base_url": "http://127.0.0.1:9/v1", "models": ["set"]}
    configured = directory([setting], file=path, store=store)
    await configured.poll()
    assert ids(configured) == ["env/set", "house/m1", "own/db"]
    assert [(item.name, item.source) for item in configured.snapshot().providers] == [
        ("env", "settings"),
        ("house", "file"),
        ("own", "database"),
    ]
    assert len(configured.snapshot().problems) == 2


@asynccontextmanager
async def managed(database: Database, configured: ConfiguredDirectory, store: ProviderStore) -> AsyncIterator[ProviderServicer]:
    redis = Redis.from_url(NOBODY)
    health = SharedHealth(redis, SystemClock(), lambda: configured.catalogue().candidates(), ProviderMetrics(CollectorRegistry()))
    await configured._sessions.start()  # noqa: SLF001 - the runtime does that
    await configured.start()
    set_current_principal(OPERATOR)
    try:
        yield ProviderServicer(ManageProviders(configured, store, health, SystemClock()))
    finally:
        set_current_principal(None)
        await configured._sessions.stop()  # noqa: SLF001
        await redis.aclose()


def message(base_url: str, *, value: str = SECRET, model: str = "scripted-model") -> providers_pb2.Provider:
    return providers_pb2.Provider(
        name="made",
        base_url=base_url,
        keys=[providers_pb2.ProviderKey(name="main", value=value, weight=1)],
        models=[providers_pb2.ProviderModelEntry(name=model, input_micros=5, output_micros=9)],
        enabled=True,
    )


async def test_operators_manage_providers_and_every_replica_sees_it(migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    store = store_of(database)
    configured, replica = directory(store=store), directory(store=store_of(database))
    async with ScriptedProvider() as scripted, managed(database, configured, store) as servicer:
        put = await servicer.PutProvider(providers_pb2.PutProviderRequest(provider=message(scripted.base_url)), None)
        assert (put.provider.source, put.provider.keys[0].source, put.provider.keys[0].value) == ("database", "database", "")
        await replica.poll()
        assert ids(replica) == ["made/scripted-model"]
        # Without a value the stored key stays.
        await servicer.PutProvider(providers_pb2.PutProviderRequest(provider=message(scripted.base_url, value="")), None)
        tested = await servicer.TestProvider(providers_pb2.TestProviderRequest(name="made"), None)
        assert [(test.key, test.ok, list(test.missing_models)) for test in tested.tests] == [("main", True, [])]
        candidate = configured.catalogue().candidates()[0]
        question = [{"role": "user", "content": "Hi"}]
        await configured.provider(candidate).complete({"model": "scripted-model", "messages": question})
        assert scripted.requests[-1].authorization == f"Bearer {SECRET}"

        alias = providers_pb2.PutAliasRequest(
            name="fast", strategy="cheapest", candidates=[providers_pb2.AliasCandidate(model="made/scripted-model", weight=1)]
        )
        await servicer.PutAlias(alias, None)
        listed = await servicer.ListOfferedModels(providers_pb2.ListOfferedModelsRequest(), None)
        kinds = {(model.id, model.kind, model.health) for model in listed.models if model.kind != "built_in"}
        assert kinds == {("fast", "alias", "healthy"), ("made/scripted-model", "model", "healthy")}
        await replica.poll()
        assert replica.catalogue().route("fast", None).strategy is Strategy.CHEAPEST
        shown = await servicer.GetProviderHealth(providers_pb2.GetProviderHealthRequest(), None)
        assert [(item.model, item.key, item.circuit) for item in shown.candidates] == [("scripted-model", "main", "closed")]

        everything = str(put) + str(tested) + str(listed) + repr(configured.snapshot())
        async with database.system() as connection:
            for table in ("providers", "provider_keys", "outbox", "model_aliases"):
                everything += str((await connection.execute(text(f"SELECT * FROM {table}"))).all())  # noqa: S608 - names above
            types = list((await connection.execute(text("SELECT DISTINCT type FROM outbox ORDER BY type"))).scalars())
        assert SECRET not in everything
        assert types == ["audit.recorded", "chat.providers.changed"]

        await servicer.DeleteAlias(providers_pb2.DeleteAliasRequest(name="fast"), None)
        gone = replica.catalogue().candidates()[0]
        await servicer.DeleteProvider(providers_pb2.DeleteProviderRequest(name="made"), None)
        await replica.poll()
        assert ids(replica) == []
        # A call that was under way may still ask for it; later ones learn that it is gone.
        assert replica.provider(gone) is not None
        with pytest.raises(WireroomError, match="not_found"):
            await servicer.GetProvider(providers_pb2.GetProviderRequest(name="made"), None)


async def test_stored_key_does_not_follow_to_another_address(migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    store = store_of(database)
    async with managed(database, directory(store=store), store) as servicer:
        await servicer.PutProvider(providers_pb2.PutProviderRequest(provider=message("http://127.0.0.1:9/v1")), None)
        with pytest.raises(WireroomError) as caught:
            await servicer.PutProvider(
                providers_pb2.PutProviderRequest(provider=message("http://collector.example/v1", value="")), None
            )
        assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, "provider_key_needed")


async def test_refusals_of_the_api(tmp_path: Path, migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    store = store_of(database)
    path = tmp_path / "providers.yaml"
    path.write_text(MINIMAL)
    async with managed(database, directory(file=path, store=store), store) as servicer:
        for provider, code in (
            (
                providers_pb2.Provider(name="house", base_url="http://h/v1", models=[providers_pb2.ProviderModelEntry(name="m")]),
                "configured_elsewhere",
            ),
            (
                providers_pb2.Provider(
                    name="x", base_url="http://169.254.169.254/v1", models=[providers_pb2.ProviderModelEntry(name="m")]
                ),
                "request_invalid",
            ),
            (providers_pb2.Provider(name="x", base_url="http://h/v1"), "request_invalid"),
            (
                providers_pb2.Provider(name="X Y", base_url="http://h/v1", models=[providers_pb2.ProviderModelEntry(name="m")]),
                "provider_invalid",
            ),
        ):
            with pytest.raises(WireroomError) as caught:
                await servicer.PutProvider(providers_pb2.PutProviderRequest(provider=provider), None)
            assert caught.value.code == code
        with pytest.raises(WireroomError, match="alias_invalid"):
            await servicer.PutAlias(
                providers_pb2.PutAliasRequest(name="a", candidates=[providers_pb2.AliasCandidate(model="house/none", weight=1)]),
                None,
            )
        set_current_principal(Principal(PrincipalKind.USER, str(UUID(int=2)), TENANT, permissions=frozenset({"llm:invoke"})))
        for call in (
            servicer.ListProviders(providers_pb2.ListProvidersRequest(), None),
            servicer.GetProviderHealth(providers_pb2.GetProviderHealthRequest(), None),
            servicer.TestProvider(providers_pb2.TestProviderRequest(name="house"), None),
            servicer.PutProvider(providers_pb2.PutProviderRequest(), None),
            servicer.DeleteAlias(providers_pb2.DeleteAliasRequest(name="a"), None),
        ):
            with pytest.raises(WireroomError, match="permission_missing"):
                await call


async def test_key_of_another_master_secret_disables_its_provider_only(migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    document = {"base_url": "http://127.0.0.1:9/v1", "models": {"m": {}}}
    await store_of(database).put_provider("keyed", {**document, "keys": {"a": {}}}, {"a": SECRET}, "t")
    await store_of(database).put_provider("open", document, {}, "t")
    configured = directory(store=store_of(database, b"another master secret, too"))
    await configured.poll()
    assert ids(configured) == ["open/m"]
    assert [provider.problem != "" for provider in configured.snapshot().providers] == [True, False]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/v1", "http://[fe80::1]/v1", "http://[::ffff:169.254.169.254]/v1", "http://metadata.google.internal/v1",
        "http://100.100.100.200/", "ftp://host/v1", "file:///etc/passwd", "http://u:p@host/v1", "http://u@host/v1", "http://host/v1?x=1",
        "http://host/v1#x", "http://", "http:///v1", "http://host:0/v1", "http://host:99999/v1", "http://ho st/v1", "host/v1", "http://0.0.0.0/v1",
        "http://[fd00:ec2::254]/v1", "http://METADATA.google.internal./v1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_taken(url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_address(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11434/v1", "http://10.0.0.5:8000/v1/", "https://api.openai.com/v1", "http://ollama:11434/v1"]
)
def test_addresses_that_are_taken(url: str) -> None:
    assert check_address(url) == url.rstrip("/")


async def test_names_that_lead_to_metadata_addresses_are_not_called() -> None:
    # A number is a name for the resolver, and the address 169.254.169.254.
    resolver = GuardedResolver()
    with pytest.raises(OSError, match="not called"):
        await resolver.resolve("2852039166", 80)
    assert [entry["host"] for entry in await resolver.resolve("2130706433", 80)] == ["127.0.0.1"]
    await resolver.close()


def test_presets_have_usable_addresses() -> None:
    for name in PRESETS:
        document = ProviderDocument.model_validate({"preset": name, "models": {"m": {}}})
        assert check_address(document.address) == document.address
