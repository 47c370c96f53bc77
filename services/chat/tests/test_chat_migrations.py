from __future__ import annotations

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from wireroom_common.db import DatabaseUrl
from wireroom_common.db.migrate import bootstrap, downgrade, upgrade


def test_schema_goes_up_and_down_and_up_again(fresh_database_url: str) -> None:
    url = DatabaseUrl.parse(fresh_database_url)
    bootstrap(url, ["chat"])
    upgrade(url, "chat")
    downgrade(url, "chat")
    engine = create_engine(url.as_role("chat_owner"), poolclass=NullPool)
    with engine.connect() as connection:
        left = connection.execute(
            text("SELECT count(*) FROM pg_tables WHERE schemaname = 'chat' AND tablename <> 'alembic_version'")
        )
        assert left.scalar_one() == 0
    engine.dispose()
    upgrade(url, "chat")
