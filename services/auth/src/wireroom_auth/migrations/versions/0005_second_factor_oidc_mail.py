"""Second factors, identities at other providers, one-time tokens, mail to send."""

from alembic import op

from wireroom_common.db.schema import statements_of, system_table, tenant_table

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UPGRADE: list[str] = statements_of(
    [
        "ALTER TABLE auth.users ADD COLUMN email_verified_at timestamptz",
        """
        CREATE TABLE auth.mails (
            tenant_id uuid NOT NULL REFERENCES auth.tenants,
            id uuid NOT NULL,
            user_id uuid,
            kind text NOT NULL,
            state text NOT NULL CHECK (state IN ('waiting', 'sent', 'given_up')),
            content_sealed bytea CHECK ((content_sealed IS NOT NULL) = (state = 'waiting')),
            attempts integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL,
            next_attempt_at timestamptz NOT NULL,
            give_up_at timestamptz NOT NULL,
            leased_until timestamptz,
            finished_at timestamptz,
            problem text NOT NULL DEFAULT '',
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
        )
        """,
        "CREATE INDEX mails_waiting ON auth.mails (next_attempt_at) WHERE state = 'waiting'",
        "CREATE INDEX mails_finished ON auth.mails (finished_at) WHERE state <> 'waiting'",
        "CREATE INDEX mails_user ON auth.mails (tenant_id, user_id, kind, created_at)",
    ],
    # Sent by the system role, whoever's they are.
    tenant_table("auth", "mails", system="SELECT, INSERT, UPDATE, DELETE"),
    [
        """
        CREATE TABLE auth.reset_requests (
            id uuid PRIMARY KEY,
            email text NOT NULL,
            client_ip text NOT NULL,
            created_at timestamptz NOT NULL
        )
        """,
    ],
    # What strangers ask for, before it is known whether there is such an account.
    system_table("auth", "reset_requests", system="SELECT, INSERT, UPDATE, DELETE"),
    [
        """
        CREATE TABLE auth.one_time_tokens (
            tenant_id uuid NOT NULL,
            id uuid NOT NULL,
            user_id uuid NOT NULL,
            purpose text NOT NULL,
            token_hash bytea NOT NULL CONSTRAINT one_time_tokens_hash UNIQUE,
            email text NOT NULL,
            data jsonb NOT NULL DEFAULT '{}',
            attempts integer NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, id),
            FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
        )
        """,
        "CREATE INDEX one_time_tokens_user ON auth.one_time_tokens (tenant_id, user_id, purpose)",
        "CREATE INDEX one_time_tokens_expiry ON auth.one_time_tokens (expires_at)",
    ],
    tenant_table("auth", "one_time_tokens", system="SELECT, INSERT, DELETE"),
    [
        """
        CREATE TABLE auth.totp_factors (
            tenant_id uuid NOT NULL,
            user_id uuid NOT NULL,
            secret_sealed bytea NOT NULL,
            created_at timestamptz NOT NULL,
            confirmed_at timestamptz,
            last_step bigint NOT NULL DEFAULT 0,
            PRIMARY KEY (tenant_id, user_id),
            FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
        )
        """,
    ],
    # The system role re-encrypts secrets when the master secret changes.
    tenant_table("auth", "totp_factors", system="SELECT, UPDATE (secret_sealed)"),
    [
        """
        CREATE TABLE auth.recovery_codes (
            tenant_id uuid NOT NULL,
            user_id uuid NOT NULL,
            code_hash bytea NOT NULL,
            used_at timestamptz,
            PRIMARY KEY (tenant_id, user_id, code_hash),
            FOREIGN KEY (tenant_id, user_id) REFERENCES auth.totp_factors (tenant_id, user_id) ON DELETE CASCADE
        )
        """,
    ],
    tenant_table("auth", "recovery_codes"),
    [
        """
        CREATE TABLE auth.oidc_identities (
            tenant_id uuid NOT NULL,
            issuer text NOT NULL,
            subject text NOT NULL,
            user_id uuid NOT NULL,
            created_at timestamptz NOT NULL,
            last_login_at timestamptz NOT NULL,
            PRIMARY KEY (tenant_id, issuer, subject),
            FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
        )
        """,
        "CREATE INDEX oidc_identities_user ON auth.oidc_identities (tenant_id, user_id)",
    ],
    tenant_table("auth", "oidc_identities"),
    [
        """
        CREATE TABLE auth.oidc_logins (
            state_hash bytea PRIMARY KEY,
            provider text NOT NULL,
            binding_hash bytea NOT NULL,
            secrets_sealed bytea NOT NULL,
            return_to text NOT NULL,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL
        )
        """,
        "CREATE INDEX oidc_logins_expiry ON auth.oidc_logins (expires_at)",
    ],
    system_table("auth", "oidc_logins"),
)
DOWNGRADE: list[str] = [
    *(
        f"DROP TABLE auth.{table}"
        for table in (
            "oidc_logins",
            "oidc_identities",
            "recovery_codes",
            "totp_factors",
            "one_time_tokens",
            "reset_requests",
            "mails",
        )
    ),
    "ALTER TABLE auth.users DROP COLUMN email_verified_at",
]


def upgrade() -> None:
    for statement in UPGRADE:
        op.execute(statement)


def downgrade() -> None:
    for statement in DOWNGRADE:
        op.execute(statement)
