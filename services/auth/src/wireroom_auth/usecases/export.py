"""What a user may take along of the account, and of what the audit trail says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wireroom_auth.domain.audit import AuditFilter, AuditRecord
from wireroom_auth.domain.erasure import ERASE_SELF
from wireroom_auth.domain.identity import User
from wireroom_auth.ports.audit import AuditTrail
from wireroom_auth.usecases.audit import DEFAULT_PAGE, LARGEST_PAGE
from wireroom_auth.usecases.password_proof import PasswordProof
from wireroom_common.errors import invalid
from wireroom_common.principal import Principal


class StartExport:
    """Each export is audited before anything of it is given."""

    def __init__(self, trail: AuditTrail, proof: PasswordProof) -> None:
        self._trail = trail
        self._proof = proof

    async def run(self, caller: Principal) -> User:
        """The caller's account; FORBIDDEN `session_required` for API keys."""
        caller.require(ERASE_SELF)
        user = await self._proof.user(caller)
        await self._trail.record_export(user.tenant_id, user.id)
        return user


class ListOwnAudit:
    """Records of which the caller is actor or subject."""

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail

    async def run(self, caller: Principal, after: int, page_size: int) -> Sequence[AuditRecord]:
        """Oldest first, after the sequence `after`. The addresses that others came from are left out."""
        caller.require(ERASE_SELF)
        if after < 0 or page_size < 0:
            raise invalid("page_out_of_range", "Neither 'after' nor the page size can be negative.", field="after")
        own = str(caller.user_id())
        limit = min(page_size or DEFAULT_PAGE, LARGEST_PAGE)
        found = await self._trail.page(caller.tenant(), after, AuditFilter(about=own), limit=limit)
        return [
            record if record.fact.actor == own else replace(record, fact=replace(record.fact, client_ip="")) for record in found
        ]
