"""Changing the master secret."""

from __future__ import annotations

from sqlalchemy import text

from wireroom_chat.adapters.provider_keys import KeySafe
from wireroom_chat.adapters.provider_store import ProviderStore
from wireroom_chat.master_secret import reseal
from wireroom_common.db import DatabaseUrl
from wireroom_common.testing.plugin import MigratedDatabase

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
DOCUMENT = {"models": [{"name": "m"}], "keys": {"main": {}, "spare": {}}}


async def test_registry_names_every_sealed_column(migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    async with database.system() as connection:
        rows = await connection.execute(
            text(
                "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
                " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'chat' AND c.relkind IN ('r', 'p')"
                " AND NOT a.attisdropped AND (a.attname = 'sealed' OR a.attname LIKE '%\\_sealed')"
            )
        )
        assert [tuple(row) for row in rows] == [("provider_keys", "key_sealed")]


async def test_provider_keys_are_opened_with_the_new_secret_and_not_with_the_old(
    migrated_database: MigratedDatabase, fresh_database_url: str
) -> None:
    database = await migrated_database("chat")
    url = DatabaseUrl.parse(fresh_database_url)
    await ProviderStore(database, KeySafe(lambda: OLD)).put_provider(
        "one", DOCUMENT, {"main": "sk-1", "spare": "sk-2"}, "operator"
    )
    await ProviderStore(database, KeySafe(lambda: OTHER)).put_provider("two", DOCUMENT, {"main": "sk-3"}, "operator")
    done = await reseal(url, OLD, NEW)
    assert (done.changed, done.unreadable) == (2, ("two/main",))
    found = {item.name: item for item in (await ProviderStore(database, KeySafe(lambda: NEW)).load()).providers}
    assert found["one"].keys == {"main": "sk-1", "spare": "sk-2"}
    assert not found["one"].problem
    assert "set it anew" in found["two"].problem
    before = {item.name: item for item in (await ProviderStore(database, KeySafe(lambda: OLD)).load()).providers}
    assert before["one"].keys == {}
    # Repeated after it was interrupted: nothing is left to do, and nothing is lost.
    again = await reseal(url, OLD, NEW)
    assert (again.changed, again.unreadable) == (0, ("two/main",))
