"""Values kept for a while: in memory, in Redis and in a database, by namespace."""

from wireroom_common.cache.cache import Cache, Durable, LookUp
from wireroom_common.cache.cached import cached
from wireroom_common.cache.caches import Caches
from wireroom_common.cache.keys import SHARED, Key, Scope, Shared
from wireroom_common.cache.namespace import Namespace
from wireroom_common.cache.packing import Sealing
from wireroom_common.cache.statistics import Snapshot

__all__ = [
    "SHARED",
    "Cache",
    "Caches",
    "Durable",
    "Key",
    "LookUp",
    "Namespace",
    "Scope",
    "Sealing",
    "Shared",
    "Snapshot",
    "cached",
]
