"""The forms of stored password hashes: which may come from another system, and which cost the same work."""

from __future__ import annotations

import re

from wireroom_common.errors import invalid

# bcrypt takes no more; what follows was never part of an imported hash.
BCRYPT_BYTES = 72

_BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}", re.ASCII)
_ARGON2 = re.compile(
    r"\$argon2id\$v=19\$m=(?P<m>\d{1,7}),t=(?P<t>\d{1,2}),p=(?P<p>\d{1,2})\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86}", re.ASCII
)
_BCRYPT_COSTS = range(8, 15)
_MEMORY_KIB = range(4096, 262_145)
# KiB times passes, about five times the default. Failed logins of all tenants go through the work of each kind of stored hash, so who
# imports hashes must not be able to make that ruinous.
_MOST_WORK = 1_048_576
_PASSES = range(1, 17)
_LANES = range(1, 17)


def check_importable(password_hash: str) -> str:
    """The hash of another system, if it may be stored: argon2id or bcrypt, neither trivially weak nor ruinous to check. INVALID."""
    if found := _BCRYPT.fullmatch(password_hash):
        if int(found["cost"]) in _BCRYPT_COSTS:
            return password_hash
    elif (found := _ARGON2.fullmatch(password_hash)) and (
        int(found["m"]) in _MEMORY_KIB
        and int(found["t"]) in _PASSES
        and int(found["p"]) in _LANES
        and int(found["m"]) * int(found["t"]) <= _MOST_WORK
    ):
        return password_hash
    raise invalid(
        "password_hash_unusable",
        "The password hash must be bcrypt ($2a$, $2b$ or $2y$, cost 8 to 14) or argon2id (version 19, 4 to 256 MiB, 1 to 16 passes,"
        " 1 to 16 lanes, memory times passes at most 1 GiB) in modular crypt format.",
        field="password_hash",
    )


def is_bcrypt(password_hash: str) -> bool:
    """Whether the hash is one of bcrypt."""
    return password_hash.startswith("$2")


def work_of(password_hash: str) -> str:
    """What checking the hash costs: the same text for the same work. Empty if it has no known form."""
    if found := _BCRYPT.fullmatch(password_hash):
        return f"bcrypt:{int(found['cost'])}"
    if found := _ARGON2.fullmatch(password_hash):
        return f"argon2id:{int(found['m'])}:{int(found['t'])}:{int(found['p'])}"
    return ""
