"""Events between services: envelope, catalogue, and the bus port with its two adapters."""

from wireroom_common.bus.catalogue import Catalogue, event_type
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.port import Bus, Subscription

__all__ = ["Bus", "Catalogue", "Envelope", "Subscription", "event_type"]
