"""Erasures, acknowledged."""

from __future__ import annotations

from alembic import op

from wireroom_common.db.schema import tenant_table

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

UPGRADE: list[str] = [
    # `user_id` NULL: the tenant. `told`: nobody waits for the answer.
    """
    CREATE TABLE chat.erasures (
        tenant_id uuid NOT NULL,
        id uuid NOT NULL,
        user_id uuid,
        requested_at timestamptz NOT NULL DEFAULT now(),
        counts jsonb NOT NULL DEFAULT '{}',
        told boolean NOT NULL DEFAULT false,
        completed_at timestamptz,
        PRIMARY KEY (tenant_id, id)
    )
    """,
    "CREATE INDEX erasures_user ON chat.erasures (tenant_id, user_id)",
    "CREATE INDEX erasures_open ON chat.erasures (requested_at) WHERE completed_at IS NULL",
    *tenant_table("chat", "erasures", system="SELECT"),
    # Assistants and their versions are never deleted by the service itself, except with their tenant.
    """
    CREATE FUNCTION chat.erase_assistants(of_tenant uuid) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = chat, pg_temp AS $$
    DECLARE
        gone bigint;
    BEGIN
        IF of_tenant IS DISTINCT FROM NULLIF(current_setting('wireroom.tenant', true), '')::uuid THEN
            RAISE EXCEPTION 'another tenant';
        END IF;
        DELETE FROM assistant_versions WHERE tenant_id = of_tenant;
        GET DIAGNOSTICS gone = ROW_COUNT;
        DELETE FROM assistants WHERE tenant_id = of_tenant;
        RETURN gone;
    END $$
    """,
    "REVOKE ALL ON FUNCTION chat.erase_assistants(uuid) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION chat.erase_assistants(uuid) TO chat_app",
]
DOWNGRADE: list[str] = ["DROP FUNCTION chat.erase_assistants(uuid)", "DROP TABLE chat.erasures"]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
