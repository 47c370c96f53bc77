"""The `Idempotency-Key` field (draft-ietf-httpapi-idempotency-key-header), and what is derived from it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.types import Scope

from wireroom_common.errors import invalid
from wireroom_common.principal import Principal, PrincipalKind

HEADER = b"idempotency-key"
_MAX_KEY = 255
_PRINTABLE = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")


@dataclass(frozen=True)
class ScopedKey:
    """A client's key within its scope: the tenant, the principal, the route.

    `name` finds the stored answer, `secret` encrypts it, `effect` goes along with the calls to services. None of them tells another, or
    the key: whoever reads the store cannot read the answers.
    """

    name: str
    secret: bytes
    effect: str


def given_key(values: Sequence[bytes]) -> bytes:
    """The key in a header's values; a string in quotes, as the draft has it, is the same as without. INVALID if it is none."""
    value = values[0].strip(b" \t")
    if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
        value = value[1:-1]
    if len(values) != 1 or not _PRINTABLE.fullmatch(value):
        raise invalid(
            "idempotency_key_invalid",
            f"Send one Idempotency-Key of 1 to {_MAX_KEY} printable ASCII characters, for example a new UUID for each operation.",
            field="Idempotency-Key",
        )
    return value


def scoped_key(key: bytes, principal: Principal, method: str, template: str) -> ScopedKey:
    """`key` as this principal may use it on this route."""
    # A key of one credential is not that of another: a user's API keys may hold fewer permissions than the user.
    who = principal.credential_id if principal.kind is PrincipalKind.API_KEY else principal.subject
    tenant = str(principal.tenant_id or "")
    scope = _joined(tenant.encode(), principal.kind.value.encode(), who.encode(), method.encode(), template.encode(), key)
    name = hashlib.sha256(b"name" + scope).hexdigest()
    return ScopedKey(
        f"idem:{tenant or '-'}:{name}", hashlib.sha256(b"seal" + scope).digest(), hashlib.sha256(b"effect" + scope).hexdigest()
    )


def fingerprint_start(scope: Scope) -> hashlib._Hash:
    """The hash of a request's path, query and content type, to which its body is still to be added."""
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    path = scope.get("raw_path") or scope["path"].encode()
    return hashlib.sha256(_joined(path, scope.get("query_string", b""), content_type))


def _joined(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
