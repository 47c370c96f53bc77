"""Provider keys: where they are found, and how they are kept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag

from wireroom_chat.adapters.sealing import Seal
from wireroom_chat.usecases.provider_documents import MAX_KEY, KeyDocument, check_key

PURPOSE = "wireroom/chat/provider-keys/v1"


class KeySafe:
    """Seals keys under a key derived from the master secret, which is asked for at first use. Each is bound to its row."""

    def __init__(self, master_secret: Callable[[], bytes]) -> None:
        self._master_secret = master_secret
        self._seal: Seal | None = None

    def close(self, provider: str, name: str, value: str) -> bytes:
        """What is stored."""
        return self._opened().close(value.encode(), _place(provider, name))

    def open(self, provider: str, name: str, sealed: bytes) -> str:
        """The key; ValueError for another master secret, another row or a changed value."""
        try:
            return self._opened().open(sealed, _place(provider, name)).decode()
        except InvalidTag:
            raise ValueError("was sealed under another master secret; set it anew") from None

    def _opened(self) -> Seal:
        if self._seal is None:
            self._seal = Seal(self._master_secret(), PURPOSE)
        return self._seal


def _place(provider: str, name: str) -> bytes:
    return f"{provider}/{name}".encode()


def read_key(provider: str, name: str, place: KeyDocument) -> str:
    """The key in its environment variable or file; ValueError if it is not there."""
    if place.env is not None:
        value = os.environ.get(place.env, "").strip()
        if not value:
            raise ValueError(
                f"the environment variable {place.env} that should hold the key '{name}' of the provider '{provider}' is not set"
            )
    else:
        path = Path(place.file or "")
        try:
            value = path.read_text(encoding="utf-8")[: MAX_KEY + 1].strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"{path}, which should hold the key '{name}' of the provider '{provider}', cannot be read") from None
    return check_key(value)
