"""How each route is called, and what it answers to whom. A route without an entry fails the suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Reach(Enum):
    """Who of those with the permission reaches the thing that the path names."""

    NOTHING = "the path names nothing, or nothing that belongs to anybody"
    TENANT = "everybody of the tenant"
    OWN = "its owner alone"
    INSTALLATION = "the operator"


@dataclass(frozen=True)
class Act:
    """`status`: what those get who may. `things`: path parameter → kind of thing. `ends`: the caller's session or user does not outlive it.

    `missing`: what an id that names nothing gets. `others_need`: the permission to do it to things of others in the tenant, 403 without.
    """

    status: int = 200
    body: Mapping[str, Any] | None = None
    form: str | None = None
    query: str = ""
    upload: bool = False
    things: Mapping[str, str] = field(default_factory=dict)
    reach: Reach = Reach.NOTHING
    ends: bool = False
    missing: int = 404
    others_need: str = ""
    # With reach OWN: the permission with which others of the tenant reach it, too.
    readers: str = ""
    # What those get who may while the effect of an earlier call lasts.
    meanwhile: int = 0

    def how(self) -> dict[str, Any]:
        """What `access_world.call` wants to know."""
        return {
            **({"upload": True} if self.upload else {}),
            **({"form": self.form} if self.form is not None else {}),
            **({"body": self.body} if self.body is not None else {}),
        }


PASSWORD = "a long enough pass phrase 17"
WRONG = "x" * 43
ASSISTANT = {"title": "Clerk", "prompt": "You are a clerk.", "disclaimer": "No advice."}
_ONE = {"id": "document"}
_COLLECTION, _SHARED = {"id": "collection"}, {"id": "shared_collection"}
_BATCH = {"id": "batch_collection", "batch_id": "file_batch"}
_ALL_COLLECTIONS = "collections:manage"
_NO_ID = "018f0000-0000-7000-8000-000000000000"
_TENANT, _OWN, _INSTALLATION = Reach.TENANT, Reach.OWN, Reach.INSTALLATION

TABLE: Mapping[str, Act] = {
    # What the installation says of itself
    "GET /.well-known/jwks.json": Act(),
    "GET /docs": Act(),
    "GET /health": Act(),
    "GET /health/live": Act(),
    "GET /health/ready": Act(),
    "GET /ready": Act(),
    "GET /info": Act(),
    "GET /metrics": Act(),
    "GET /openapi.json": Act(),
    "GET /health/detailed": Act(),
    # Signing in
    "POST /auth/register": Act(403, {"email": "someone@example.net", "password": PASSWORD}),
    "POST /auth/login": Act(401, {"email": "{fresh}@example.net", "password": WRONG}),
    "POST /auth/login/mfa": Act(401, {"mfa_token": WRONG, "code": "123456"}),
    "POST /auth/refresh": Act(401, {"refresh_token": f"wr_rt_{WRONG}"}),
    "POST /auth/token": Act(401, form="grant_type=client_credentials&client_id=x&client_secret=y"),
    "POST /auth/password/forgot": Act(409, {"email": "nobody@example.net"}),
    "POST /auth/password/reset": Act(400, {"token": WRONG, "new_password": PASSWORD}),
    "POST /auth/email/verify": Act(400, {"token": WRONG}),
    "GET /auth/link": Act(),
    "GET /auth/link.css": Act(),
    "GET /auth/link.js": Act(),
    "GET /auth/oidc": Act(),
    "GET /auth/oidc/{provider}/start": Act(404, things={"provider": "provider"}),
    "GET /auth/oidc/{provider}/callback": Act(404, query="?state=x&code=y", things={"provider": "provider"}),
    "POST /auth/oidc/{provider}/finish": Act(404, {"state": "x", "code": "y"}, things={"provider": "provider"}),
    # One's own account
    "GET /auth/me": Act(),
    "PATCH /auth/me": Act(body={"name": "New Name"}),
    "GET /auth/permissions": Act(),
    "POST /auth/logout": Act(204, ends=True),
    "POST /auth/logout-all": Act(ends=True),
    "POST /auth/password/change": Act(body={"current_password": PASSWORD, "new_password": "quite another phrase 29"}, ends=True),
    "POST /auth/email/verification": Act(409),
    "GET /auth/mfa": Act(),
    "POST /auth/mfa/totp/enroll": Act(body={"password": PASSWORD}, ends=True),
    "POST /auth/mfa/totp/verify": Act(409, {"code": "123456"}),
    "POST /auth/mfa/totp/disable": Act(409, {"password": PASSWORD, "code": "123456"}),
    "GET /auth/sessions": Act(),
    "DELETE /auth/sessions/{id}": Act(204, things={"id": "session"}, reach=_OWN),
    # API keys
    "GET /auth/api-keys": Act(),
    "POST /auth/api-keys": Act(201, {"name": "mine"}),
    "GET /auth/api-keys/{id}": Act(things={"id": "key"}, reach=_OWN),
    "PATCH /auth/api-keys/{id}": Act(body={"name": "renamed"}, things={"id": "key"}, reach=_OWN),
    "DELETE /auth/api-keys/{id}": Act(204, things={"id": "key"}, reach=_OWN),
    "POST /auth/api-keys/{id}/rotate": Act(body={}, things={"id": "key"}, reach=_OWN),
    # Directory
    "GET /api/v1/admin/users": Act(),
    "POST /api/v1/admin/users": Act(201, {"email": "{fresh}@example.org", "roles": ["Viewer"], "password": PASSWORD}),
    "GET /api/v1/admin/users/{id}": Act(things={"id": "user"}, reach=_TENANT),
    "PATCH /api/v1/admin/users/{id}": Act(body={"name": "Renamed"}, things={"id": "user"}, reach=_TENANT),
    "DELETE /api/v1/admin/users/{id}": Act(204, things={"id": "user"}, reach=_TENANT),
    "GET /api/v1/admin/invitations": Act(),
    "POST /api/v1/admin/invitations": Act(201, {"email": "{fresh}@example.org", "roles": ["Viewer"]}),
    "DELETE /api/v1/admin/invitations/{id}": Act(204, things={"id": "invitation"}, reach=_TENANT),
    "GET /api/v1/admin/roles": Act(),
    "PUT /api/v1/admin/roles/{name}": Act(body={"permissions": ["docs:read"]}, things={"name": "role"}, missing=200),
    "DELETE /api/v1/admin/roles/{name}": Act(204, things={"name": "role"}, reach=_TENANT),
    "GET /api/v1/admin/tenants": Act(),
    "POST /api/v1/admin/tenants": Act(201, {"name": "{fresh}"}),
    "PATCH /api/v1/admin/tenants/{id}": Act(body={"name": "{fresh}"}, things={"id": "tenant"}, reach=_INSTALLATION),
    "POST /api/v1/admin/tenants/{id}/invitations": Act(
        201, {"email": "{fresh}@example.org", "roles": ["Admin"]}, things={"id": "tenant"}, reach=_INSTALLATION
    ),
    "GET /api/v1/admin/budgets": Act(),
    "POST /api/v1/admin/budgets": Act(201, {"scope": "tenant", "period": "total", "cap_micros": 10**15}),
    "DELETE /api/v1/admin/budgets/{id}": Act(204, things={"id": "budget"}, reach=_TENANT),
    "GET /api/v1/usage": Act(),
    "GET /api/v1/usage/budget": Act(),
    "GET /api/v1/usage/generations/{id}": Act(things={"id": "generation"}, reach=_OWN, readers="usage:read:tenant"),
    "GET /api/v1/admin/providers": Act(),
    "GET /api/v1/admin/providers/{name}": Act(404, things={"name": "provider"}),
    # An address that is never called: nothing is made that the others would see.
    "PUT /api/v1/admin/providers/{name}": Act(
        400, {"base_url": "http://169.254.169.254/v1", "models": [{"name": "m"}]}, things={"name": "provider"}, missing=400
    ),
    "DELETE /api/v1/admin/providers/{name}": Act(404, things={"name": "provider"}),
    "POST /api/v1/admin/providers/{name}/test": Act(404, things={"name": "provider"}),
    "GET /api/v1/admin/provider-health": Act(),
    "GET /api/v1/admin/models": Act(),
    # There is no provider to name.
    "PUT /api/v1/admin/models/{name}": Act(
        400, {"candidates": [{"model": "none/at-all"}]}, things={"name": "model"}, missing=400
    ),
    "DELETE /api/v1/admin/models/{name}": Act(404, things={"name": "model"}),
    "GET /api/v1/admin/ip-blocks": Act(),
    "POST /api/v1/admin/ip-blocks": Act(201, {"network": "198.51.100.7"}),
    "DELETE /api/v1/admin/ip-blocks/{id}": Act(204, things={"id": "block"}, reach=_INSTALLATION),
    # The first key is too new.
    "POST /api/v1/admin/signing-keys/rotate": Act(409),
    # Audit and monitoring
    "GET /api/v1/audit": Act(),
    "GET /api/v1/audit/verify": Act(),
    "GET /api/stats": Act(),
    "GET /api/v1/events": Act(),
    "GET /api/v1/monitoring/security/monitoring": Act(),
    # Documents
    "GET /api/v1/documents": Act(),
    "POST /api/v1/documents": Act(202, upload=True),
    "GET /api/v1/documents/{id}": Act(things=_ONE, reach=_TENANT),
    "GET /api/v1/documents/{id}/status": Act(things=_ONE, reach=_TENANT),
    "GET /api/v1/documents/{id}/events": Act(things=_ONE, reach=_TENANT),
    "GET /api/v1/documents/{id}/chunks": Act(things=_ONE, reach=_TENANT),
    "GET /api/v1/documents/{id}/content": Act(things=_ONE, reach=_TENANT),
    # The document is indexed: there is nothing to try again or to cancel.
    "POST /api/v1/documents/{id}/retry": Act(409, things=_ONE, reach=_TENANT, others_need="collections:manage"),
    "POST /api/v1/documents/{id}/cancel": Act(409, things=_ONE, reach=_TENANT, others_need="collections:manage"),
    "DELETE /api/v1/documents/{id}": Act(204, things=_ONE, reach=_TENANT, others_need="collections:manage"),
    # A private collection is its owner's, and those who manage all collections reach it, too.
    "GET /api/v1/collections": Act(),
    "POST /api/v1/collections": Act(201, {"name": "{fresh}"}),
    "GET /api/v1/collections/{id}": Act(things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS),
    "PATCH /api/v1/collections/{id}": Act(body={"name": "Renamed"}, things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS),
    "DELETE /api/v1/collections/{id}": Act(204, things=_SHARED, reach=_TENANT, others_need=_ALL_COLLECTIONS),
    "GET /api/v1/collections/{id}/documents": Act(things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS),
    "POST /api/v1/collections/{id}/documents": Act(404, {"document_id": _NO_ID}, things=_COLLECTION),
    "DELETE /api/v1/collections/{id}/documents/{document_id}": Act(
        204, things={**_SHARED, "document_id": "member"}, reach=_TENANT, others_need=_ALL_COLLECTIONS
    ),
    "GET /api/v1/collections/{id}/acl": Act(things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS),
    "PUT /api/v1/collections/{id}/acl": Act(body={"public": True}, things=_SHARED, reach=_TENANT, others_need="acl:manage"),
    "GET /api/v1/collections/{id}/limits": Act(things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS),
    "PUT /api/v1/collections/{id}/limits": Act(
        body={"retention_days": 400}, things=_SHARED, reach=_TENANT, others_need=_ALL_COLLECTIONS
    ),
    "PUT /api/v1/documents/{id}/access": Act(body={"access": "tenant"}, things=_ONE, reach=_TENANT, others_need=_ALL_COLLECTIONS),
    "GET /api/v1/documents/{id}/versions": Act(things=_ONE, reach=_TENANT),
    "GET /api/v1/privacy/receipts": Act(),
    "GET /api/v1/privacy/receipts/{id}": Act(things={"id": "receipt"}, reach=_TENANT),
    "DELETE /api/v1/privacy/me": Act(202, {"password": PASSWORD}, ends=True),
    # Another name than the tenant's.
    "DELETE /api/v1/privacy/tenant": Act(400, {"name": "{fresh}", "password": PASSWORD}),
    "GET /api/v1/privacy/erasures": Act(),
    "GET /api/v1/privacy/erasures/{id}": Act(things={"id": "erasure"}, reach=_OWN, readers="privacy:erase:tenant"),
    "GET /api/v1/privacy/erasures/{id}/receipt": Act(404, query=f"?token={WRONG}", things={"id": "erasure"}),
    "GET /api/v1/privacy/receipt-key": Act(),
    "POST /api/v1/privacy/export": Act(),
    "GET /api/v1/index": Act(),
    # Nothing is being built: the one who may learns that.
    "DELETE /api/v1/index/reindex": Act(409, meanwhile=200),
    "POST /api/v1/index/reindex": Act(202, {}, meanwhile=409),
    "POST /api/v1/collections/{id}/reindex": Act(
        202, {}, things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS, meanwhile=409
    ),
    "GET /api/v1/citations/{id}": Act(things={"id": "citation"}, reach=_TENANT),
    "POST /api/v1/rag/query": Act(body={"query": "agreement of the harbour, pilot and tide table"}),
    "POST /api/v1/rag/answer": Act(body={"question": "Which pilot does the harbour agreement name?", "model": "extractive"}),
    "POST /api/v1/rag/answer/stream": Act(
        body={"question": "Which pilot does the harbour agreement name?", "model": "extractive"}
    ),
    # News
    "GET /api/v1/feeds": Act(),
    "POST /api/v1/feeds": Act(400, {"url": "http://127.0.0.1:1/feed.xml"}),
    "GET /api/v1/feeds/{id}": Act(things={"id": "feed"}, reach=_TENANT),
    "POST /api/v1/feeds/{id}/refresh": Act(things={"id": "feed"}, reach=_TENANT),
    "DELETE /api/v1/feeds/{id}": Act(204, things={"id": "feed"}, reach=_TENANT),
    "GET /api/v1/news": Act(),
    "GET /api/v1/news/{id}": Act(things={"id": "article"}, reach=_TENANT),
    # Chat
    "POST /api/v1/chat": Act(body={"message": "Which pilot does the harbour agreement name?", "model": "extractive"}),
    "POST /api/v1/chat/stream": Act(body={"message": "Which pilot does the harbour agreement name?", "model": "extractive"}),
    "GET /api/v1/chat/streams/{stream_id}": Act(things={"stream_id": "chat_stream"}, reach=_OWN),
    "DELETE /api/v1/chat/streams/{stream_id}": Act(204, things={"stream_id": "chat_stream"}, reach=_OWN),
    "POST /api/v1/ws-tickets": Act(201),
    "GET /api/v1/sessions": Act(),
    "POST /api/v1/sessions": Act(201, {}),
    "GET /api/v1/sessions/{id}": Act(things={"id": "chat_session"}, reach=_OWN, readers="sessions:read:tenant"),
    "PATCH /api/v1/sessions/{id}": Act(body={"title": "Renamed"}, things={"id": "chat_session"}, reach=_OWN),
    "DELETE /api/v1/sessions/{id}": Act(204, things={"id": "chat_session"}, reach=_OWN),
    "GET /api/v1/sessions/{id}/messages": Act(things={"id": "chat_session"}, reach=_OWN, readers="sessions:read:tenant"),
    "POST /api/v1/sessions/{id}/export": Act(
        body={"format": "markdown"}, things={"id": "chat_session"}, reach=_OWN, readers="sessions:read:tenant"
    ),
    "POST /api/v1/messages/{id}/feedback": Act(204, {"score": 1}, things={"id": "message"}, reach=_OWN),
    # Assistants and tools
    "GET /api/v1/assistants": Act(),
    "GET /api/v1/tools": Act(),
    "POST /api/v1/tools/{name}": Act(body={"input": {"expression": "6*7"}}, things={"name": "tool"}),
    "GET /api/v1/artefacts/{id}": Act(things={"id": "artefact"}, reach=_OWN),
    "GET /api/v1/admin/assistants": Act(),
    "POST /api/v1/admin/assistants": Act(201, {"name": "{fresh}", "config": ASSISTANT}),
    "GET /api/v1/admin/assistants/{name}": Act(things={"name": "assistant"}, reach=_TENANT),
    "DELETE /api/v1/admin/assistants/{name}": Act(204, things={"name": "assistant"}, reach=_TENANT),
    "POST /api/v1/admin/assistants/{name}/versions": Act(201, {"config": ASSISTANT}, things={"name": "assistant"}, reach=_TENANT),
    "PUT /api/v1/admin/assistants/{name}/weights": Act(body={"weights": {"1": 1}}, things={"name": "assistant"}, reach=_TENANT),
    # Models
    "GET /v1/files": Act(),
    "POST /v1/files": Act(upload=True),
    "GET /v1/files/{id}": Act(things=_ONE, reach=_TENANT),
    "DELETE /v1/files/{id}": Act(things=_ONE, reach=_TENANT, others_need=_ALL_COLLECTIONS),
    "GET /v1/files/{id}/content": Act(things=_ONE, reach=_TENANT),
    "GET /v1/vector_stores": Act(),
    "POST /v1/vector_stores": Act(body={"name": "{fresh}"}),
    "GET /v1/vector_stores/{id}": Act(things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS),
    "POST /v1/vector_stores/{id}": Act(body={"name": "Renamed"}, things=_SHARED, reach=_TENANT, others_need=_ALL_COLLECTIONS),
    "DELETE /v1/vector_stores/{id}": Act(things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS),
    "GET /v1/vector_stores/{id}/files": Act(things=_SHARED, reach=_TENANT),
    "POST /v1/vector_stores/{id}/files": Act(404, {"file_id": _NO_ID}, things=_COLLECTION),
    "GET /v1/vector_stores/{id}/files/{file_id}": Act(
        things={**_COLLECTION, "file_id": "member"}, reach=_OWN, readers=_ALL_COLLECTIONS
    ),
    "DELETE /v1/vector_stores/{id}/files/{file_id}": Act(
        things={**_SHARED, "file_id": "member"}, reach=_TENANT, others_need=_ALL_COLLECTIONS
    ),
    "POST /v1/vector_stores/{id}/file_batches": Act(404, {"file_ids": [_NO_ID]}, things=_COLLECTION),
    # Known to its owner and to those who manage all collections.
    "GET /v1/vector_stores/{id}/file_batches/{batch_id}": Act(things=_BATCH, reach=_OWN, readers=_ALL_COLLECTIONS),
    "GET /v1/vector_stores/{id}/file_batches/{batch_id}/files": Act(things=_BATCH, reach=_OWN, readers=_ALL_COLLECTIONS),
    "POST /v1/vector_stores/{id}/file_batches/{batch_id}/cancel": Act(things=_BATCH, reach=_OWN, readers=_ALL_COLLECTIONS),
    "POST /v1/vector_stores/{id}/search": Act(
        body={"query": "harbour pilot"}, things=_COLLECTION, reach=_OWN, readers=_ALL_COLLECTIONS
    ),
    "GET /v1/models": Act(),
    "GET /v1/models/{id}": Act(things={"id": "model"}),
    "POST /v1/chat/completions": Act(
        body={"model": "grounded", "messages": [{"role": "user", "content": "Which pilot does the harbour agreement name?"}]}
    ),
    "POST /v1/completions": Act(body={"model": "grounded", "prompt": "Which pilot does the harbour agreement name?"}),
    # Without a provider there is no model for it.
    "POST /v1/embeddings": Act(404, {"model": "none/embedder", "input": "harbour"}),
    "POST /v1/moderations": Act(body={"input": "The harbour master signs for the quay."}),
    "POST /v1/responses": Act(body={"model": "grounded", "input": "Which pilot does the harbour agreement name?"}),
    "GET /v1/responses/{id}": Act(things={"id": "response"}, reach=_OWN),
    "DELETE /v1/responses/{id}": Act(things={"id": "response"}, reach=_OWN),
    "GET /v1/responses/{id}/input_items": Act(things={"id": "response"}, reach=_OWN),
}
