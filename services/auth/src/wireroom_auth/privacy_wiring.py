"""The part of the composition root that erases and exports."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from wireroom_auth.adapters.erasure_metrics import ErasureMetrics
from wireroom_auth.adapters.erasures_sql import SqlErasures
from wireroom_auth.adapters.receipt_key import ReceiptKey
from wireroom_auth.ports.audit import AuditTrail
from wireroom_auth.ports.factor_store import FactorStore
from wireroom_auth.settings import AuthSettings
from wireroom_auth.transport.privacy import CONSUMER, ErasureParts, PrivacyServicer
from wireroom_auth.usecases.erase import EraseMe, EraseTenant, FollowErasures, FullProof, ReadErasures
from wireroom_auth.usecases.erasure_orders import ErasureOrders
from wireroom_auth.usecases.export import ListOwnAudit, StartExport
from wireroom_auth.usecases.password_proof import PasswordProof
from wireroom_common.bus import Subscription
from wireroom_common.db import Database
from wireroom_common.runtime.service import Infra, Periodic, RpcRegistration
from wireroom_protos.auth.v1 import privacy_pb2_grpc

# Whoever reads the status or the metric of an overdue erasure waits no longer than this for it to show.
_LOOK_EVERY = 60.0


class PrivacyWiring:
    """What the service declares of it."""

    def __init__(
        self,
        settings: AuthSettings,
        infra: Infra,
        database: Database,
        *,
        proof: PasswordProof,
        factors: FactorStore,
        trail: AuditTrail,
    ) -> None:
        clock = infra.clock
        erasures = SqlErasures(database)
        self._key = ReceiptKey(database, clock, lambda: infra.secret("master"))
        full_proof = FullProof(proof, factors)
        self.orders = ErasureOrders(clock, deadline=timedelta(hours=settings.erasure_deadline_hours))
        servicer = PrivacyServicer(
            erase_me=EraseMe(erasures, full_proof, self.orders),
            erase_tenant=EraseTenant(erasures, full_proof, self.orders),
            read=ReadErasures(erasures),
            start_export=StartExport(trail, proof),
            own_audit=ListOwnAudit(trail),
            signer=self._key,
        )
        follow = FollowErasures(
            erasures, ErasureMetrics(infra.registry), clock, every=timedelta(seconds=settings.erasure_reminder_seconds)
        )
        self.rpc: RpcRegistration = partial(privacy_pb2_grpc.add_PrivacyServiceServicer_to_server, servicer)
        self.subscription = Subscription(CONSUMER, work=ErasureParts(self._key).on_event, database=database)
        self.periodic = Periodic("auth.erasures", min(_LOOK_EVERY, float(settings.erasure_reminder_seconds)), follow.run)

    async def start(self) -> None:
        """Before the first receipt is signed."""
        await self._key.load()
