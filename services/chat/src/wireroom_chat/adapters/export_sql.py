"""What a user takes along, read in pages of short transactions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text

from wireroom_common.db import Database

_PAGE = 50
# Of rows that may have eight megabytes each.
_FEW = 4


@dataclass(frozen=True)
class _List:
    """`key` orders the rows and is unique among one owner's; `page`: rows that are held at once."""

    name: str
    owner: str
    key: str
    columns: str
    page: int = _PAGE


_LISTS = (
    _List("sessions", "owner_id", "id", "id, title, model, assistant, grounding, archived, summary, created_at, updated_at"),
    _List(
        "messages",
        "owner_id",
        "id",
        "id, session_id, number, role, content, annotations, model, answer_mode, status, finish_reason, created_at",
    ),
    _List("feedback", "user_id", "message_id", "message_id, score, tags, comment, created_at"),
    _List(
        "responses",
        "user_id",
        "id",
        "id, previous_id, created_at, convert_from(items, 'UTF8') AS items, convert_from(response, 'UTF8') AS response",
        _FEW,
    ),
    _List("artefacts", "user_id", "id", "id, name, media_type, created_at, expires_at, encode(data, 'base64') AS data"),
)


class ExportStore:
    """Reads what one user has; every row belongs to that user."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def rows(self, tenant_id: UUID, user_id: UUID) -> AsyncGenerator[tuple[str, str], None]:
        """The list and a JSON object of each row."""
        for wanted in _LISTS:
            after: UUID | None = None
            while True:
                async with self._database.tenant(tenant_id) as connection:
                    rows = (
                        await connection.execute(
                            text(
                                f"SELECT {wanted.key} AS key, CAST(row_to_json(entry) AS text) AS entry"  # noqa: S608 - constants
                                f" FROM (SELECT {wanted.columns} FROM {wanted.name} WHERE tenant_id = :tenant_id"
                                f" AND {wanted.owner} = :user_id AND (CAST(:after AS uuid) IS NULL OR {wanted.key} > :after)"
                                f" ORDER BY {wanted.key} LIMIT :limit) AS entry"
                            ),
                            {"tenant_id": tenant_id, "user_id": user_id, "after": after, "limit": wanted.page},
                        )
                    ).all()
                for row in rows:
                    yield wanted.name, row.entry
                if len(rows) < wanted.page:
                    break
                after = rows[-1].key
