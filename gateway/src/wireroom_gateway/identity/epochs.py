"""The epochs below which access tokens are void, as far as such tokens may still be around."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from wireroom_common.clock import Clock
from wireroom_common.logging import get_logger
from wireroom_common.principal import Principal

_log = get_logger(__name__)


@dataclass(frozen=True)
class _Raise:
    epoch: int
    until: float


class RaisedEpochs:
    """A bounded map by user and tenant. Entries go when no token of an older epoch can live; when full, the oldest goes."""

    def __init__(self, clock: Clock, *, remember_seconds: float, max_entries: int) -> None:
        self._clock = clock
        self._remember = remember_seconds
        self._max = max_entries
        self._raises: OrderedDict[str, _Raise] = OrderedDict()

    def __len__(self) -> int:
        return len(self._raises)

    def is_void(self, principal: Principal) -> bool:
        """Whether a credential with these epochs is void. A number not known here voids nothing."""
        if not self._raises:
            return False
        return self._below(principal.epoch, principal.subject) or self._below(principal.tenant_epoch, principal.tenant_text)

    def add(self, subject: str, epoch: int, age: float = 0.0) -> bool:
        """Remember that the epoch of a user or tenant was raised `age` seconds ago; False if that was known. Never goes back."""
        now = self._clock.monotonic()
        until = now + self._remember - age
        known = self._raises.get(subject)
        if not subject or until <= now or (known is not None and known.epoch >= epoch):
            return False
        self._raises[subject] = _Raise(epoch, until)
        self._raises.move_to_end(subject)
        while self._raises and (len(self._raises) > self._max or next(iter(self._raises.values())).until <= now):
            _, gone = self._raises.popitem(last=False)
            if gone.until > now:
                _log.error("epoch_map_full", entries=self._max)
        return True

    def _below(self, epoch: int, subject: str) -> bool:
        known = self._raises.get(subject)
        return known is not None and epoch < known.epoch
