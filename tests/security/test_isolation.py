"""A document that nobody but its owner reads: no route gives a byte of it to anybody else, nor a log or an event to anyone.

The cases are made from `docs/reference/openapi.json`: every operation whose path names a document, a collection, a member or a citation
is called with the hidden ones, and every other operation that lists, searches or answers is asked for what they say.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from access_table import TABLE
from access_world import Actor, World, call
from api import wait_for
from test_access_matrix import OPERATIONS

# In the name and the text of what is hidden, and nowhere else.
SECRET = "zq9hidden73k"
QUESTION = "Under which seal is the ballast ledger of the north quay kept?"
_KINDS = {"document": "document", "member": "document", "collection": "collection", "shared_collection": "collection"}
_KINDS["citation"] = "citation"
# Of the same tenant, and of another; the colleague of the matrix manages all collections and sees everything.
DENIED = ("anonymous", "viewer", "analyst", "api_user", "stranger", "operator")
# Members of bodies that are asked, searched or talked about.
_ASKED = ("query", "question", "message", "prompt", "input", "content")
NAMING = sorted(
    name for name, act in TABLE.items() if name in OPERATIONS and act.things and set(act.things.values()) <= set(_KINDS)
)
# Chat streams are their makers', and what is asked there is asked by `POST /api/v1/chat` as well; the others have nothing of a tenant.
_LEFT_OUT = (
    "GET /api/v1/events",
    "POST /api/v1/chat/stream",
    "POST /api/v1/rag/answer/stream",
    "GET /auth/link",
    "GET /auth/oidc",
)


def _asks(name: str) -> bool:
    act = TABLE[name]
    return not act.things and not act.ends and (name.startswith("GET ") or not {*_ASKED, "messages"}.isdisjoint(act.body or ()))


ASKING = sorted(name for name in TABLE if name in OPERATIONS and _asks(name) and not name.startswith(_LEFT_OUT))


@pytest.fixture(scope="module")
def hidden(world: World) -> Iterator[dict[str, str]]:
    """Ids of the owner's hidden document, collection and citation."""
    owner = world.owner.api
    text = f"The ballast ledger of the north quay is kept under the seal {SECRET}.\n"
    collection = owner.post("/api/v1/collections", {"name": SECRET, "metadata": {"seal": SECRET}})["id"]
    path = f"/api/v1/documents?collection_id={collection}"
    uploaded = owner.upload(f"{SECRET}.txt", text.encode(), path=path)
    assert uploaded.status == 202, uploaded.body
    assert uploaded.json["access"] == "collections"
    owner.settled(uploaded.json["id"], expect="indexed")
    body = _asked_of_docs()

    def cited() -> Any:
        notes = owner.post("/v1/chat/completions", body)["choices"][0]["message"].get("annotations") or ()
        ids = [note["url_citation"]["url"].rpartition("/")[2] for note in notes]
        return [found for found in ids if SECRET in owner.get(f"/api/v1/citations/{found}")["text"]]

    return {"document": uploaded.json["id"], "collection": collection, "citation": wait_for(cited)[0]}


def _asking(value: Any, name: str = "") -> Any:
    """The body with the question in the place of what it asks."""
    if isinstance(value, dict):
        return {key: _asking(entry, key) for key, entry in value.items()}
    if isinstance(value, list):
        return [_asking(entry, name) for entry in value]
    return QUESTION if name in _ASKED and isinstance(value, str) else value


def _asked_of_docs() -> dict[str, Any]:
    return {"model": "docs", "messages": [{"role": "user", "content": QUESTION}]}


def _how(operation: str, *, question: bool = False) -> dict[str, Any]:
    how = json.loads(json.dumps(TABLE[operation].how()).replace("{fresh}", f"fresh-{uuid.uuid4().hex[:12]}"))
    return {**how, "body": _asking(how["body"])} if question and "body" in how else how


def _path(operation: str, ids: dict[str, str]) -> str:
    things = TABLE[operation].things
    path = operation.partition(" ")[2]
    return re.sub(r"\{(\w+)\}", lambda found: ids[_KINDS[things[found.group(1)]]], path) + TABLE[operation].query


def _assert_nothing(actor: Actor, operation: str, reply: Any) -> None:
    told = (str(reply.headers) + reply.body.decode(errors="replace")).lower()
    assert SECRET not in told, (actor.name, operation, told[max(0, told.find(SECRET) - 300) :][:400])


def _call(actor: Actor, operation: str, path: str, how: dict[str, Any]) -> Any:
    return call(actor, operation.partition(" ")[0], path, how)


def test_routes_were_found() -> None:
    assert len(NAMING) > 25
    assert {"POST /api/v1/rag/query", "POST /v1/chat/completions", "GET /v1/files", "GET /api/v1/documents"} <= set(ASKING)


@pytest.mark.parametrize("name", DENIED)
def test_no_route_that_names_it_tells_of_it(world: World, hidden: dict[str, str], name: str) -> None:
    actor = world.actor(name)
    for operation in NAMING:
        reply = _call(actor, operation, _path(operation, hidden), _how(operation))
        permitted = actor.signed_in and OPERATIONS[operation]["x-permission"] in actor.permissions
        assert reply.status == (401 if not actor.signed_in else 404 if permitted else 403), (operation, name, reply.body[:300])
        _assert_nothing(actor, operation, reply)


@pytest.mark.parametrize("name", DENIED)
def test_no_list_search_or_answer_tells_of_it(world: World, hidden: dict[str, str], name: str) -> None:
    actor = world.actor(name)
    for operation in ASKING:
        reply = _call(actor, operation, operation.partition(" ")[2] + TABLE[operation].query, _how(operation, question=True))
        assert reply.status < 500, (operation, reply.body[:300])
        _assert_nothing(actor, operation, reply)
    if not actor.signed_in:
        return
    # Named in the body, or by no name at all.
    collection, document = hidden["collection"], hidden["document"]
    for path, body in (
        ("/api/v1/rag/query", {"query": QUESTION, "collections": [collection]}),
        ("/api/v1/rag/query", {"query": QUESTION, "collections": [""]}),
        ("/api/v1/rag/query", {"query": QUESTION, "collections": [SECRET]}),
        ("/v1/vector_stores", {"name": "mine", "file_ids": [document]}),
        ("/api/v1/collections", {"name": "mine", "document_ids": [document]}),
        ("/v1/chat/completions", {**_asked_of_docs(), "grounding": {"sources": [f"docs:{collection}"]}}),
        ("/v1/vector_stores//search", {"query": QUESTION}),
    ):
        reply = actor.api.call("POST", path, body)
        assert 400 <= reply.status < 500, (path, body, reply.status, reply.body[:300])
        told = reply.body.decode(errors="replace").lower()
        assert SECRET not in told or SECRET in json.dumps(body), (path, told[:300])
    for path in ("/api/v1/documents/", "/api/v1/collections//documents", "/v1/files//content", "/api/v1/citations/"):
        reply = actor.api.call("GET", path)
        assert reply.status in {401, 403, 404, 405}, (path, reply.status)
        _assert_nothing(actor, path, reply)


def test_owner_is_told_by_each_way_of_reading(world: World, hidden: dict[str, str]) -> None:
    """The same calls find the marker where it may be found: the tests above could fail."""
    for operation in (
        "GET /api/v1/documents/{id}",
        "GET /v1/files/{id}/content",
        "GET /api/v1/citations/{id}",
        "GET /api/v1/collections/{id}/documents",
        "GET /v1/vector_stores/{id}",
        "POST /v1/vector_stores/{id}/search",
        "POST /api/v1/rag/query",
        "POST /v1/chat/completions",
        "GET /v1/files",
    ):
        reply = _call(world.owner, operation, _path(operation, hidden), _how(operation, question=True))
        assert SECRET in reply.body.decode(), (operation, reply.body[:300])


def test_what_was_taken_back_is_not_given_again(world: World, hidden: dict[str, str]) -> None:
    """An answer kept from a time when it could be read, or stored for a repeated request, is not given when it no longer can."""
    owner, analyst = world.owner, world.actor("analyst")
    acl = f"/api/v1/collections/{hidden['collection']}/acl"
    shared = owner.api.call("PUT", acl, {"readers": {"users": [analyst.user_id]}})
    assert shared.status == 200, shared.body
    body = _asked_of_docs()
    key = {"Idempotency-Key": uuid.uuid4().hex}

    def told() -> bool:
        return SECRET in analyst.api.call("POST", "/v1/chat/completions", body, headers=key).body.decode()

    query = {"query": QUESTION}
    assert SECRET in analyst.api.call("POST", "/api/v1/rag/query", query).body.decode()
    assert told()
    assert SECRET in analyst.api.call("POST", "/v1/chat/completions", body).body.decode()
    try:
        assert owner.api.call("PUT", acl, {}).status == 200
        assert SECRET not in analyst.api.call("POST", "/api/v1/rag/query", query).body.decode()
        assert SECRET not in analyst.api.call("POST", "/v1/chat/completions", body).body.decode()
        # By an event; the others by looking again.
        wait_for(lambda: not told(), within=10)
    finally:
        owner.api.call("PUT", acl, {})


def test_expired_token_and_guessed_ids_find_nothing(world: World, hidden: dict[str, str]) -> None:
    world.wait_until_expired()
    guessed = {kind: str(uuid.uuid4()) for kind in hidden}
    for actor, ids, status in ((world.actors["expired"], hidden, 401), (world.owner, guessed, 404)):
        for operation in NAMING:
            reply = _call(actor, operation, _path(operation, ids), _how(operation))
            assert reply.status == status, (operation, actor.name, reply.body[:300])
            _assert_nothing(actor, operation, reply)


def test_no_log_and_no_event_holds_it(world: World, hidden: dict[str, str]) -> None:
    assert hidden
    logs = [world.running.log(role) for role in world.running.processes]
    assert any(logs)
    assert not [place for log in logs if (place := log.lower().find(SECRET)) >= 0]
    for name in ("owner", "operator"):
        reply = world.actor(name).api.call("GET", "/api/v1/audit?page_size=500")
        assert reply.status == 200
        assert SECRET not in reply.body.decode()
