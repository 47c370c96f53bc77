"""PostgreSQL: connections per role, row-level security, migrations."""

from wireroom_common.db.database import Database, DatabaseUrl

__all__ = ["Database", "DatabaseUrl"]
