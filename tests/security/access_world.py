"""Two tenants on a real installation, one of them full of things that carry a marker, and everybody who may try to reach them."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from api import Api, Reply, wait_for
from harness import Running
from site_server import Site

from wireroom_auth.domain.permissions import permissions_of

# In every name and text of tenant A, so that one search of an answer shows whether any of it got out.
MARKER = "xq7marker41z"
PASSWORD = "a long enough pass phrase 17"
# The shortest life that an access token can have.
TOKEN_SECONDS = 60
_serial = itertools.count()


@dataclass
class Actor:
    """A caller. `tenant` "" for nobody; `session_id` of the token's session."""

    name: str
    api: Api
    tenant: str = ""
    permissions: frozenset[str] = frozenset()
    email: str = ""
    user_id: str = ""
    session_id: str = ""
    signed_in: bool = False
    roles: tuple[str, ...] = ()
    since: float = 0.0


@dataclass
class World:
    """The installation, its actors by name, and the things of tenant A by kind."""

    running: Running
    site: Site
    actors: dict[str, Actor] = field(default_factory=dict)
    things: dict[str, str] = field(default_factory=dict)
    marker: str = MARKER
    tenant_ids: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> Actor:
        """Whose things they are."""
        return self.actor("owner")

    @property
    def operator(self) -> Actor:
        """Who runs the installation."""
        return self.actor("operator")

    def actor(self, name: str) -> Actor:
        """The actor, with a token that lives for a while yet."""
        actor = self.actors[name]
        if actor.signed_in and name != "expired" and time.monotonic() - actor.since > TOKEN_SECONDS / 2:
            actor = self.actors[name] = self.sign_in(name, actor.email, actor.roles, actor.tenant)
        return actor

    def nobody(self) -> Api:
        """A caller without a credential."""
        return Api(self.running.base_url)

    def sign_in(self, name: str, email: str, roles: tuple[str, ...], tenant: str) -> Actor:
        """A session of a user that exists."""
        browser = {"User-Agent": f"{self.marker}-browser" if tenant == "a" else "browser"}

        def login_once() -> Any:
            # The suite's own failed logins slow this address down for a moment.
            reply = self.nobody().call("POST", "/auth/login", {"email": email, "password": PASSWORD}, headers=browser)
            assert reply.status in {200, 429}, reply.body
            return reply.json if reply.status == 200 else None

        login = wait_for(login_once, every=0.5)
        return Actor(
            name,
            Api(self.running.base_url, login["access_token"]),
            tenant,
            permissions_of(roles),
            email,
            login["user"]["id"],
            login["session_id"],
            signed_in=True,
            roles=roles,
            since=time.monotonic(),
        )

    def add_user(self, admin: Actor, name: str, roles: tuple[str, ...]) -> Actor:
        """A new user in the tenant of `admin`, signed in."""
        email = f"{MARKER if admin.tenant == 'a' else 'b'}-{name}-{next(_serial)}@example.org"
        admin.api.post(
            "/api/v1/admin/users",
            {
                "email": email,
                "name": f"{MARKER} {name}" if admin.tenant == "a" else name,
                "roles": list(roles),
                "password": PASSWORD,
            },
        )
        return self.sign_in(name, email, roles, admin.tenant)

    def add_tenant(self, operator: Actor, name: str) -> Actor:
        """A new tenant and its first admin, who was invited."""
        # The one thing of a tenant that the operator is to see: its name. So it is not marked.
        tenant_id = operator.api.post("/api/v1/admin/tenants", {"name": f"tenant {name}"})["id"]
        self.tenant_ids[name] = tenant_id
        email = f"{MARKER if name == 'a' else 'b'}-admin@example.org"
        invited = operator.api.post(f"/api/v1/admin/tenants/{tenant_id}/invitations", {"email": email, "roles": ["Admin"]})
        self.nobody().post("/auth/register", {"email": email, "password": PASSWORD, "invitation_token": invited["token"]})
        return self.sign_in("owner" if name == "a" else "stranger", email, ("Admin",), name)

    # What tenant A owns; each returns the id of something new, made by the owner.

    def new_document(self) -> str:
        text = f"The {self.marker} agreement of harbour {next(_serial)} names the pilot and the tide table of the quay.\n"
        return str(self.owner.api.indexed(f"{self.marker}-{next(_serial)}.txt", text.encode())["id"])

    def member(self) -> str:
        """The document that is in every collection: a new one would be in none."""
        if "member" not in self.things:
            self.things["member"] = self.things.get("document") or self.new_document()
        return self.things["member"]

    def new_collection(self) -> str:
        body = {
            "name": f"{self.marker} {next(_serial)}",
            "document_ids": [self.member()],
            "metadata": {"m": self.marker},
        }
        return str(self.owner.api.post("/api/v1/collections", body)["id"])

    def new_shared_collection(self) -> str:
        body = {"name": f"{self.marker} {next(_serial)}", "document_ids": [self.member()], "visibility": "tenant"}
        return str(self.owner.api.post("/api/v1/collections", body)["id"])

    def new_batch_collection(self) -> str:
        """The collection of every file batch, always the same one: their paths name both."""
        if "batch_collection" not in self.things:
            self.things["batch_collection"] = self.new_collection()
        return self.things["batch_collection"]

    def new_file_batch(self) -> str:
        path = f"/v1/vector_stores/{self.new_batch_collection()}/file_batches"
        return str(self.owner.api.post(path, {"file_ids": [self.member()]})["id"])

    def new_feed(self) -> str:
        name = f"feed{next(_serial)}"
        self.site.publish(name, f"{name}-1", f"{self.marker} ferry {name}", f"The {self.marker} ferry of {name} leaves at noon.")
        return str(self.owner.api.post("/api/v1/feeds", {"url": self.site.feed_url(name)})["id"])

    def new_key(self) -> str:
        return str(self.owner.api.post("/auth/api-keys", {"name": f"{self.marker} key"})["id"])

    def new_session(self) -> str:
        return self.sign_in("owner", self.owner.email, ("Admin",), "a").session_id

    def new_user(self) -> str:
        return self.add_user(self.owner, "guest", ("Viewer",)).user_id

    def new_invitation(self) -> str:
        body = {"email": f"{self.marker}-{next(_serial)}@example.org", "roles": ["Viewer"]}
        return str(self.owner.api.post("/api/v1/admin/invitations", body)["id"])

    def new_role(self) -> str:
        name = f"{self.marker}-{next(_serial)}"
        reply = self.owner.api.call("PUT", f"/api/v1/admin/roles/{name}", {"permissions": ["docs:read"]})
        assert reply.status == 200, reply.body
        return name

    def new_receipt(self) -> str:
        """Of a user who is erased for it."""
        user = self.new_user()
        assert self.owner.api.call("DELETE", f"/api/v1/admin/users/{user}").status == 204

        def signed() -> Any:
            receipts = self.owner.api.get("/api/v1/privacy/receipts")["receipts"]
            return [entry["id"] for entry in receipts if entry["signature"] and user in entry["content"]]

        return str(wait_for(signed)[0])

    def new_erasure(self) -> str:
        reply = self.owner.api.call("DELETE", f"/api/v1/admin/users/{self.new_user()}")
        assert reply.status == 204, reply.body
        return str(reply.headers["location"].rpartition("/")[2])

    def new_tenant(self) -> str:
        return str(self.operator.api.post("/api/v1/admin/tenants", {"name": f"t{next(_serial)}"})["id"])

    def new_block(self) -> str:
        network = f"192.0.2.{next(_serial) % 250 + 1}"
        return str(self.operator.api.post("/api/v1/admin/ip-blocks", {"network": network})["id"])

    def new_budget(self) -> str:
        body = {"scope": "user", "subject": str(uuid.uuid4()), "period": "day", "cap_micros": 1_000_000}
        return str(self.owner.api.post("/api/v1/admin/budgets", body)["id"])

    def new_generation(self) -> str:
        question = {"role": "user", "content": f"Which tide table does the {self.marker} agreement name?"}
        return str(self.owner.api.post("/v1/chat/completions", {"model": "extractive", "messages": [question]})["id"])

    def new_response(self) -> str:
        body = {"model": "extractive", "input": f"Which tide table does the {self.marker} agreement name?"}
        return str(self.owner.api.post("/v1/responses", body)["id"])

    def turn(self) -> Any:
        """A question and its answer in a new chat session."""
        body = {"message": f"What does the {self.marker} agreement say of pilot {next(_serial)}?", "model": "extractive"}
        return self.owner.api.post("/api/v1/chat", body)

    def new_chat_session(self) -> str:
        return str(self.turn()["session_id"])

    def new_chat_stream(self) -> str:
        body = {"message": f"What does the {self.marker} agreement say of pilot {next(_serial)}?", "model": "extractive"}
        return str(self.owner.api.call("POST", "/api/v1/chat/stream", body).headers["x-stream-id"])

    def new_message(self) -> str:
        return str(self.turn()["message_id"])

    def new_assistant(self) -> str:
        name = f"{self.marker}-{next(_serial)}"
        config = {"title": self.marker, "prompt": f"You are {self.marker}.", "disclaimer": "No advice."}
        return str(self.owner.api.post("/api/v1/admin/assistants", {"name": name, "config": config})["name"])

    def new_artefact(self) -> str:
        given = {"lender": self.marker, "applicant": self.marker, "purpose": "a house", "principal": 1000}
        given |= {"annual_rate_percent": 5, "months": 12}
        return str(self.owner.api.post("/api/v1/tools/sanction_letter", {"input": given})["result"]["artefact_id"])

    def make(self, kind: str) -> str:
        """A new thing of `kind`; what only exists once is found again."""
        maker = getattr(self, f"new_{kind}", None)
        return maker() if maker is not None else self.things[kind]

    def disposable(self, actor: Actor) -> Actor:
        """Another user with the same rights in the same tenant."""
        admin = self.actor({"a": "owner", "b": "stranger"}.get(actor.tenant, "operator"))
        return self.add_user(admin, actor.name, actor.roles)

    def wait_until_expired(self) -> None:
        """Return when the token of the actor "expired" is past its time."""
        api = self.actors["expired"].api
        wait_for(lambda: api.call("GET", "/auth/me").status == 401, within=TOKEN_SECONDS + 10, every=0.5)

    def missing(self, kind: str) -> str:
        """An id of the right form that names nothing."""
        return "no-such-thing" if kind in {"role", "provider", "model", "tool", "assistant"} else str(uuid.uuid4())


def build(running: Running, site: Site) -> World:
    """Everybody and everything."""
    world = World(running, site)
    account = {"email": "operator@example.org", "password": PASSWORD}
    world.nobody().post("/auth/register", account | {"admin_token": running.admin_token()})
    operator = world.sign_in("operator", account["email"], ("Admin", "platform_admin"), "default")
    world.actors["operator"] = operator
    world.actors["owner"] = world.add_tenant(operator, "a")
    world.actors["stranger"] = world.add_tenant(operator, "b")
    world.actors["anonymous"] = Actor("anonymous", world.nobody())
    world.actors["expired"] = world.add_user(world.owner, "expired", ("Admin",))
    for name, roles in (
        ("colleague", ("Admin",)),
        ("analyst", ("Analyst",)),
        ("viewer", ("Viewer",)),
        ("api_user", ("API User",)),
    ):
        world.actors[name] = world.add_user(world.owner, name, roles)
    for kind in (
        "document",
        "collection",
        "shared_collection",
        "file_batch",
        "feed",
        "key",
        "session",
        "user",
        "invitation",
        "role",
        "tenant",
        "block",
        "response",
        "budget",
        "generation",
        "chat_session",
        "chat_stream",
        "message",
        "assistant",
        "artefact",
        "receipt",
        "erasure",
    ):
        world.things[kind] = world.make(kind)
    world.things["model"], world.things["provider"] = "extractive", "none"
    world.things["tool"] = "calculator"
    find_answers(world)
    return world


def find_answers(world: World) -> None:
    """What processing makes out of the things: passages and articles."""

    def annotations() -> Any:
        question = {"role": "user", "content": f"Which pilot and tide table does the {world.marker} agreement name?"}
        answer = world.owner.api.post("/v1/chat/completions", {"model": "docs", "messages": [question]})
        return answer["choices"][0]["message"].get("annotations")

    world.things["citation"] = wait_for(annotations)[0]["url_citation"]["url"].rpartition("/")[2]
    world.things["article"] = wait_for(lambda: world.owner.api.get("/api/v1/news")["articles"])[0]["id"]


def call(actor: Actor, method: str, path: str, act: Mapping[str, Any]) -> Reply:
    """One request as the table describes it."""
    if act.get("upload"):
        fields = {"purpose": "assistants"} if path.startswith("/v1/") else {}
        name, content = f"up-{time.monotonic_ns()}.txt", b"The harbour master signs for the quay.\n"
        return actor.api.upload(name, content, path=path, fields=fields)
    if "form" in act:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        # The client names itself in the form, and in no other way.
        return Api(actor.api.base_url).call(method, path, raw=act["form"].encode(), headers=headers)
    return actor.api.call(method, path, act.get("body"))
