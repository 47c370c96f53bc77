"""Changing the master secret."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text

from wireroom_auth.adapters.encryption import SEALED_COLUMNS
from wireroom_auth.master_secret import reseal
from wireroom_common.db import DatabaseUrl
from wireroom_common.errors import OperatorError
from wireroom_common.principal import Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

KEYS = "/wireroom_protos.auth.v1.ApiKeyService/"
GATEWAY = Principal(PrincipalKind.SERVICE, "gateway")
NEW = b"n" * 32


async def signing_key(auth: Any) -> Any:
    await auth.register_admin()
    caller = await auth.add_user("ann@example.org", "Analyst")
    request = auth_pb2.CreateKeyRequest(name="signed", signature_required=True)
    made = await auth.call(KEYS + "CreateKey", request, caller)
    return await auth.call(KEYS + "RotateKey", auth_pb2.RotateKeyRequest(id=made.key.id), caller), made


async def test_registry_names_every_sealed_column(auth: Any) -> None:
    async with auth.database.system() as connection:
        rows = await connection.execute(
            text(
                "SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
                " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'auth' AND c.relkind IN ('r', 'p')"
                " AND NOT a.attisdropped AND (a.attname = 'sealed' OR a.attname LIKE '%\\_sealed')"
            )
        )
        stored = {(row.relname, row.attname) for row in rows}
    assert stored == {(column.table, column.column) for column in SEALED_COLUMNS}


async def test_everything_works_under_the_new_secret_and_nothing_under_the_old(
    auth: Any, make_auth: Any, fresh_database_url: str
) -> None:
    again, made = await signing_key(auth)
    token = (await auth.login()).tokens.access_token
    done = await reseal(DatabaseUrl.parse(fresh_database_url), auth.infra.master, NEW)
    assert done.changed["signing_keys.private_key_sealed"] == 2
    assert done.changed["api_keys.signing_secret_sealed"] == 1
    assert done.changed["api_keys.previous_signing_secret_sealed"] == 1
    assert done.done == 0
    with pytest.raises(OperatorError, match="WIREROOM_MASTER_SECRET"):
        await make_auth(infra=type(auth.infra)(auth.database, clock=auth.clock))
    renewed = await make_auth(infra=type(auth.infra)(auth.database, clock=auth.clock, master=NEW))
    found = await renewed.call(KEYS + "VerifyKey", auth_pb2.VerifyKeyRequest(key_id=made.key.id), GATEWAY)
    assert found.signing_secret == again.signing_secret.encode()
    assert found.previous_signing_secret == made.signing_secret.encode()
    # The same signing key: tokens live on.
    assert (await renewed.login()).tokens.access_token.split(".")[0] == token.split(".")[0]
    assert "master_secret.rotated" in [record.action for record in await auth.events_of(events_pb2.AuditRecorded)]


async def test_repeating_it_finishes_what_is_left(auth: Any, fresh_database_url: str) -> None:
    await signing_key(auth)
    url = DatabaseUrl.parse(fresh_database_url)
    first = await reseal(url, auth.infra.master, NEW)
    second = await reseal(url, auth.infra.master, NEW)
    assert sum(second.changed.values()) == 0
    assert second.done == sum(first.changed.values())


async def test_wrong_old_secret_changes_nothing(auth: Any, make_auth: Any, fresh_database_url: str) -> None:
    await signing_key(auth)
    with pytest.raises(OperatorError, match="neither the old nor the new"):
        await reseal(DatabaseUrl.parse(fresh_database_url), b"w" * 32, NEW)
    assert (await (await make_auth()).login()).tokens.access_token


async def test_one_bad_value_leaves_all_as_they_were(
    auth: Any, make_auth: Any, fresh_database_url: str, postgres_as_owner: Any
) -> None:
    await signing_key(auth)
    postgres_as_owner(
        "UPDATE auth.api_keys SET previous_signing_secret_sealed = decode('00112233445566778899aabbccddeeff00', 'hex')"
    )
    with pytest.raises(OperatorError):
        await reseal(DatabaseUrl.parse(fresh_database_url), auth.infra.master, NEW)
    assert (await (await make_auth()).login()).tokens.access_token
