"""How much may be kept: documents and bytes of a tenant, a user, a collection."""

from __future__ import annotations

from dataclasses import dataclass, field

from wireroom_common.errors import ErrorKind, WireroomError, invalid


@dataclass(frozen=True)
class Quota:
    """The most documents and bytes (of all kept versions); 0 for no limit."""

    documents: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Quotas:
    """The installation's defaults; a collection may have its own."""

    tenant: Quota = Quota()
    user: Quota = Quota()
    collection: Quota = Quota()


@dataclass(frozen=True)
class Stored:
    """What is kept."""

    documents: int
    bytes: int


_REMEDIES = {
    "tenant": "Delete documents that are not needed any more, or ask the operator to raise the limit.",
    "user": "Delete documents of yours that are not needed any more, or ask the operator to raise the limit.",
    "collection": "Take documents out of the collection, or ask an administrator to raise its limit.",
}


def require_room(of: str, stored: Stored, quota: Quota) -> None:
    """CONFLICT `document_quota_exceeded` when `stored`, with what is about to be committed, is more than the quota of `of`."""
    for what, count, most in (("documents", stored.documents, quota.documents), ("bytes", stored.bytes, quota.bytes)):
        if most and count > most:
            raise WireroomError(
                ErrorKind.CONFLICT,
                "document_quota_exceeded",
                f"This would be {count} {what} for the {of}, which may have {most}. {_REMEDIES[of]}",
            )


MAX_DAYS = 36_500
_MOST = 2**53


@dataclass(frozen=True)
class CollectionLimits:
    """Of one collection; None is the installation's default, and for days no term. A quota of 0 is no limit."""

    max_documents: int | None = None
    max_bytes: int | None = None
    retention_days: int | None = None
    expires_days: int | None = None
    stored: Stored = field(default=Stored(0, 0))
    default: Quota = field(default=Quota())

    def settings(self) -> dict[str, int | None]:
        """What can be set, by name."""
        return {
            "max_documents": self.max_documents,
            "max_bytes": self.max_bytes,
            "retention_days": self.retention_days,
            "expires_days": self.expires_days,
        }

    def require_allowed(self, before: CollectionLimits, *, manages: bool) -> None:
        """INVALID for values that nothing could keep to; FORBIDDEN for quotas changed by one who does not manage all collections."""
        for name, value in self.settings().items():
            least, most = (1, MAX_DAYS) if name.endswith("_days") else (0, _MOST)
            if value is not None and not least <= value <= most:
                raise invalid(f"{name}_out_of_range", f"'{name}' lies between {least} and {most}.", field=name)
        if not manages and (self.max_documents, self.max_bytes) != (before.max_documents, before.max_bytes):
            raise WireroomError(
                ErrorKind.FORBIDDEN,
                "quota_not_yours",
                "Only an administrator may change quotas of a collection: leave them as they are.",
            )
