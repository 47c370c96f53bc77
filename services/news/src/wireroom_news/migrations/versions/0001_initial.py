"""Feeds, articles with their versions and keys, the record of fetches, messaging."""

from alembic import op

from wireroom_common.db.schema import messaging_tables, statements_of, tenant_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FEEDS = """
CREATE TABLE news.feeds (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    url text NOT NULL CHECK (length(url) <= 2048),
    title text NOT NULL,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'degraded')),
    interval_seconds integer NOT NULL CHECK (interval_seconds >= 1),
    next_fetch_at timestamptz NOT NULL,
    last_fetch_at timestamptz,
    last_status integer NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT '',
    consecutive_failures integer NOT NULL DEFAULT 0,
    etag text NOT NULL DEFAULT '',
    last_modified text NOT NULL DEFAULT '',
    lease_token bigint NOT NULL DEFAULT 0,
    leased_until timestamptz,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    UNIQUE (tenant_id, url)
)
"""

ARTICLES = """
CREATE TABLE news.articles (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL,
    feed_id uuid NOT NULL,
    version integer NOT NULL CHECK (version >= 1),
    content_sha256 text NOT NULL,
    published_at timestamptz NOT NULL,
    merged_into uuid,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, feed_id) REFERENCES news.feeds (tenant_id, id) ON DELETE CASCADE
)
"""

VERSIONS = """
CREATE TABLE news.article_versions (
    tenant_id uuid NOT NULL,
    article_id uuid NOT NULL,
    version integer NOT NULL,
    feed_id uuid NOT NULL,
    url text NOT NULL,
    title text NOT NULL,
    text text NOT NULL,
    summary text NOT NULL,
    author text NOT NULL,
    published_at timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    content_sha256 text NOT NULL,
    PRIMARY KEY (tenant_id, article_id, version),
    FOREIGN KEY (tenant_id, article_id) REFERENCES news.articles (tenant_id, id) ON DELETE CASCADE
)
"""

# Under which keys a feed has shown an article; article_id is null for a URL that identifies none because several items share it.
KEYS = """
CREATE TABLE news.article_keys (
    tenant_id uuid NOT NULL,
    feed_id uuid NOT NULL,
    key text NOT NULL,
    article_id uuid,
    PRIMARY KEY (tenant_id, feed_id, key),
    FOREIGN KEY (tenant_id, feed_id) REFERENCES news.feeds (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, article_id) REFERENCES news.articles (tenant_id, id) ON DELETE CASCADE
)
"""

FETCHES = """
CREATE TABLE news.feed_fetches (
    tenant_id uuid NOT NULL,
    feed_id uuid NOT NULL,
    id uuid NOT NULL,
    fetched_at timestamptz NOT NULL,
    status integer NOT NULL,
    error text NOT NULL,
    milliseconds bigint NOT NULL,
    bytes bigint NOT NULL,
    new_articles integer NOT NULL,
    changed_articles integer NOT NULL,
    not_modified boolean NOT NULL,
    PRIMARY KEY (tenant_id, feed_id, id),
    FOREIGN KEY (tenant_id, feed_id) REFERENCES news.feeds (tenant_id, id) ON DELETE CASCADE
)
"""


def upgrade() -> None:
    for statement in statements_of(
        [
            FEEDS,
            "CREATE INDEX feeds_due ON news.feeds (next_fetch_at)",
            ARTICLES,
            "CREATE INDEX articles_newest ON news.articles (tenant_id, published_at DESC, id DESC) WHERE merged_into IS NULL",
            "CREATE INDEX articles_of_feed ON news.articles (tenant_id, feed_id, published_at DESC, id DESC)",
            VERSIONS,
            KEYS,
            "CREATE INDEX article_keys_by_key ON news.article_keys (tenant_id, key)",
            "CREATE INDEX article_keys_by_article ON news.article_keys (tenant_id, article_id)",
            FETCHES,
        ],
        tenant_table("news", "feeds", system="SELECT, UPDATE"),
        tenant_table("news", "articles"),
        tenant_table("news", "article_versions"),
        tenant_table("news", "article_keys"),
        tenant_table("news", "feed_fetches"),
        messaging_tables("news"),
    ):
        op.execute(statement)


def downgrade() -> None:
    for table in ("feed_fetches", "article_keys", "article_versions", "articles", "feeds", "deliveries", "inbox", "outbox"):
        op.execute(f"DROP TABLE news.{table}")
    op.execute("DROP FUNCTION news.outbox_notify()")
