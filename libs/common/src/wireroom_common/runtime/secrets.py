"""Secrets of an installation: given by settings, or made once and kept where nobody else may read them."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path

from wireroom_common.errors import OperatorError
from wireroom_common.runtime.secret_strength import weakness
from wireroom_common.runtime.settings import Environment, RuntimeSettings


def master_secret(settings: RuntimeSettings) -> bytes:
    """The master secret; OperatorError when it is weak, given twice, or missing in production, where none is ever made."""
    if settings.master_secret is not None and settings.master_secret_file is not None:
        raise OperatorError("Set WIREROOM_MASTER_SECRET or WIREROOM_MASTER_SECRET_FILE, not both.")
    if settings.master_secret is not None:
        return checked(settings.master_secret.get_secret_value().encode(), "WIREROOM_MASTER_SECRET")
    if settings.master_secret_file is not None:
        return checked(read_secret(settings.master_secret_file), str(settings.master_secret_file))
    if settings.environment is Environment.PRODUCTION:
        msg = "WIREROOM_MASTER_SECRET or WIREROOM_MASTER_SECRET_FILE must be set in production (at least 32 random bytes)."
        raise OperatorError(msg)
    return keep_once(kept_master_secret(settings), new_secret)


def kept_master_secret(settings: RuntimeSettings) -> Path:
    """Where the master secret is kept when no setting gives one."""
    return settings.data_dir / "secrets" / "master"


def new_secret() -> bytes:
    """A good secret."""
    return secrets.token_urlsafe(48).encode()


def read_secret(path: Path) -> bytes:
    """The secret in a file, without the line's end; OperatorError when it cannot be read."""
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise OperatorError(f"The secret in {path} cannot be read: {error.strerror}.") from error


def checked(value: bytes, where: str) -> bytes:
    """The secret itself; OperatorError with the reason when it is weak. `where` is named, the value is not."""
    if reason := weakness(value):
        msg = f"The master secret in {where} is weak: {reason}. Make one with `openssl rand -base64 48`."
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
