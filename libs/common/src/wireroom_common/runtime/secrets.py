"""Secrets of an installation: given by settings, or made once and kept where nobody else may read them."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from wireroom_common.errors import OperatorError
from wireroom_common.runtime.settings import MINIMUM_SECRET_BYTES, Environment, RuntimeSettings

_SAMPLES = ("changeme", "change-me", "secret", "password", "example", "your-", "default", "insecure")
_MINIMUM_DISTINCT_BYTES = 10


def master_secret(settings: RuntimeSettings) -> bytes:
    """The master secret; OperatorError when it is weak, or missing in production."""
    if settings.master_secret is not None:
        return _checked(settings.master_secret.get_secret_value().encode(), "WIREROOM_MASTER_SECRET")
    if settings.master_secret_file is not None:
        return _checked(settings.master_secret_file.read_bytes().strip(), str(settings.master_secret_file))
    if settings.environment is Environment.PRODUCTION:
        msg = "WIREROOM_MASTER_SECRET or WIREROOM_MASTER_SECRET_FILE must be set in production (at least 32 random bytes)."
        raise OperatorError(msg)
    return keep_once(settings.data_dir / "secrets" / "master", lambda: secrets.token_urlsafe(48).encode())


def _checked(value: bytes, where: str) -> bytes:
    lowered = value.lower().decode(errors="replace")
    if (
        len(value) < MINIMUM_SECRET_BYTES
        or len(set(value)) < _MINIMUM_DISTINCT_BYTES
        or any(sample in lowered for sample in _SAMPLES)
    ):
        msg = (
            f"The master secret in {where} is weak: at least {MINIMUM_SECRET_BYTES} random bytes are needed,"
            " for example from `openssl rand -base64 48`."
        )
        raise OperatorError(msg)
    return value


def keep_once(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of `path`; made by `make()` and written with mode 0600 if there is none. Safe against concurrent first starts."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        try:
            # A hard link fails when another process was first; a rename would overwrite what that process already uses.
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            Path(temporary).unlink()
    return path.read_bytes()
