"""Every route of OpenAPI for everybody who may try: exactly the declared status, and not a byte of what is not theirs.

The cases are made from `docs/reference/openapi.json` (kept fresh by `make lint`) and `access_table.TABLE`; permissions are those of the
code's own table.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from access_table import TABLE, Act, Reach
from access_world import MARKER, Actor, World, call

OPENAPI = json.loads((Path(__file__).resolve().parents[2] / "docs" / "reference" / "openapi.json").read_text())
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in OPENAPI["paths"].items()
    for method, operation in operations.items()
}
ACTORS = ("anonymous", "viewer", "analyst", "api_user", "colleague", "stranger", "operator", "owner")


def expected(need: str, act: Act, actor: Actor) -> int:
    """The declared status."""
    if need == "nothing":
        return act.status
    if not actor.signed_in:
        return 401
    if need != "signed_in" and need not in actor.permissions:
        return 403
    reachable = {
        Reach.NOTHING: True,
        Reach.TENANT: actor.tenant == "a",
        Reach.OWN: actor.name == "owner",
        Reach.INSTALLATION: actor.name == "operator",
    }[act.reach]
    if act.readers and actor.tenant == "a" and act.readers in actor.permissions:
        reachable = True
    if reachable and act.others_need and actor.name != "owner" and act.others_need not in actor.permissions:
        return 403
    return act.status if reachable else act.missing


def path_of(operation: str, ids: dict[str, str], act: Act) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: ids[found.group(1)], operation.partition(" ")[2]) + act.query


def filled(act: Act) -> dict[str, Any]:
    """How to call; what must be new is new."""
    return json.loads(json.dumps(act.how()).replace("{fresh}", f"fresh-{uuid.uuid4().hex[:12]}"))


def test_every_route_has_an_entry_and_no_entry_is_left_over() -> None:
    assert set(TABLE) == set(OPERATIONS)


@pytest.mark.parametrize("actor_name", ACTORS)
@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_route_answers_as_declared(world: World, operation: str, actor_name: str) -> None:
    act, need = TABLE[operation], OPERATIONS[operation]["x-permission"]
    actor = world.actor(actor_name)
    status = expected(need, act, actor)
    allowed = status == act.status and need != "nothing" and actor.signed_in
    method = operation.partition(" ")[0]
    if allowed and act.ends:
        actor = world.disposable(actor)
    # A call that succeeds may use the thing up; one that is refused must leave the standing one as it is.
    used_up = allowed and method != "GET" and act.reach is not Reach.NOTHING
    ids = {name: world.make(kind) if used_up else world.things[kind] for name, kind in act.things.items()}

    reply = call(actor, method, path_of(operation, ids, act), filled(act))

    assert reply.status == status or (allowed and reply.status == act.meanwhile), reply.body[:600]
    assert_declared(operation, reply.status)
    if actor.tenant != "a":
        assert_no_marker(reply, sent=ids)


@pytest.mark.parametrize("operation", sorted(name for name, act in TABLE.items() if act.things))
def test_guessed_id_is_not_found(world: World, operation: str) -> None:
    act, need = TABLE[operation], OPERATIONS[operation]["x-permission"]
    ids = {name: world.missing(kind) for name, kind in act.things.items()}
    for actor in (world.owner, world.operator):
        reply = call(actor, operation.partition(" ")[0], path_of(operation, ids, act), filled(act))
        permitted = need in {"nothing", "signed_in"} or need in actor.permissions
        assert reply.status == (act.missing if permitted else 403), (actor.name, reply.body[:600])


def test_what_was_refused_has_changed_nothing(world: World) -> None:
    owner, operator = world.owner.api, world.operator.api
    for kind, listed, member in (
        ("document", "/api/v1/documents", "documents"),
        ("collection", "/api/v1/collections", "collections"),
        ("feed", "/api/v1/feeds", "feeds"),
        ("key", "/auth/api-keys", "keys"),
        ("session", "/auth/sessions", "sessions"),
        ("user", "/api/v1/admin/users", "users"),
        ("invitation", "/api/v1/admin/invitations", "invitations"),
    ):
        assert world.things[kind] in {entry["id"] for entry in owner.get(f"{listed}?page_size=100")[member]}, kind
    assert world.things["role"] in {role["name"] for role in owner.get("/api/v1/admin/roles")["roles"]}
    assert world.things["block"] in {entry["id"] for entry in operator.get("/api/v1/admin/ip-blocks?page_size=100")["blocks"]}


def test_expired_token_opens_nothing(world: World) -> None:
    world.wait_until_expired()
    actor = world.actors["expired"]
    for operation, act in TABLE.items():
        if OPERATIONS[operation]["x-permission"] == "nothing":
            continue
        ids = {name: world.things[kind] for name, kind in act.things.items()}
        reply = call(actor, operation.partition(" ")[0], path_of(operation, ids, act), filled(act))
        assert reply.status == 401, (operation, reply.body[:300])
        assert reply.headers["www-authenticate"].startswith("Bearer"), operation
        assert_no_marker(reply, sent=ids)


def assert_declared(operation: str, status: int) -> None:
    """The status stands in the OpenAPI document."""
    assert str(status) in OPERATIONS[operation]["responses"], f"{operation} does not declare {status}"


def assert_no_marker(reply: Any, *, sent: dict[str, str]) -> None:
    """Nothing of tenant A, but what the caller has sent itself."""
    text = (str(reply.headers) + reply.body.decode(errors="replace")).lower()
    for value in sent.values():
        text = text.replace(value.lower(), "")
    place = text.find(MARKER)
    assert place < 0, text[max(0, place - 200) : place + 100]
