"""The running gateway against its own OpenAPI document: generated requests, valid and not, to every operation.

No 5xx, no status, media type or member that is not declared, nothing accepted that the schema refuses. The cases are derived, not
random: a run that fails fails again.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from access_table import PASSWORD, TABLE, Reach
from access_world import Actor, World, find_answers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks as conformance

DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "docs" / "reference" / "openapi.json").read_text())
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
}
EXAMPLES = 8
TIMEOUT = 60
# Failed logins slow their address down: none of those that the other tests come from.
SIGNED_IN_FROM, ANONYMOUS_FROM = "127.0.0.2", "127.0.0.3"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE")
CHECKS = [
    not_a_server_error,
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_headers_conformance,
    conformance.response_schema_conformance,
    conformance.negative_data_rejection,
    conformance.ignored_auth,
]
# Called by a user made for it; every other operation is called by the operator, and there is none that is not called.
DISPOSABLE: Mapping[str, str] = {
    "POST /auth/logout": "ends the session",
    "POST /auth/logout-all": "ends all sessions of the user",
    "POST /auth/password/change": "ends the other sessions, and wrong passwords slow the user down",
    "POST /auth/mfa/totp/enroll": "begins a second factor, and wrong passwords slow the user down",
    "POST /auth/mfa/totp/verify": "wrong codes lock the user out",
    "POST /auth/mfa/totp/disable": "wrong passwords and codes lock the user out",
}
# Bodies that no JSON schema can describe.
NOT_JSON: Mapping[str, bytes] = {
    "nothing": b"",
    "cut off": b'{"a": [1, 2',
    "two documents": b"{} {}",
    "no number": b'{"a": NaN}',
    "endless": b'{"a": -Infinity}',
    "beyond a double": b'{"a": 1e999}',
    "digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "lone surrogate": b'{"a": "\\ud800"}',
    "surrogate as a name": b'{"\\udfff": 1}',
    "not UTF-8": b'{"a": "\xff\xfe"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "deep lists": b"[" * 20_000,
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "a list": b"[]",
    "a text": b'"text"',
    "null": b"null",
    "comment": b"{} // comment",
    "NUL": b"\x00",
}
_serial = itertools.count()


class _From(HTTPAdapter):
    """Connects from one address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, source_address=(self._address, 0), **kwargs)


def connection(address: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", _From(address))
    return session


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """The document with answers that may hold nothing beyond their declared members."""
    document = copy.deepcopy(document)
    for name, model in document["components"]["schemas"].items():
        if name == "Problem" or name.endswith("Output"):
            assert model["type"] == "object", name
            model.setdefault("additionalProperties", False)
    return document


@dataclass
class Installation:
    """The document that runs, its operator's things, and a connection for each kind of caller."""

    world: World
    # The same installation, with the operator as the owner of what is made.
    mine: World
    document: dict[str, Any]
    schema: Any
    connections: Mapping[str, requests.Session]
    things: dict[str, str] = field(default_factory=dict)

    def thing(self, kind: str, *, fresh: bool) -> str:
        """Something of the operator's tenant; `fresh` for what may be used up."""
        if kind in {"provider", "model"}:
            return self.world.things[kind]
        if fresh:
            return self.mine.make(kind)
        if kind in {"article", "citation"} and kind not in self.things:
            for source in ("document", "feed"):
                self.thing(source, fresh=False)
            find_answers(self.mine)
            self.things |= self.mine.things
        if kind not in self.things:
            self.things[kind] = self.mine.make(kind)
        return self.things[kind]

    def operation(self, label: str) -> Any:
        method, _, path = label.partition(" ")
        return self.schema[path][method]

    def send(self, case: Any, caller: Actor | None) -> Any:
        """The answer, after all checks."""
        headers = {"Authorization": f"Bearer {caller.api.key}"} if caller else {}
        response = case.call_and_validate(
            session=self.connections["operator" if caller else "anonymous"],
            headers=headers,
            checks=CHECKS,
            timeout=TIMEOUT,
            allow_redirects=False,
        )
        if case.path.startswith("/v1/") or response.status_code < 400:
            return response
        assert "request_id" in response.json() or label_of(case) == "POST /auth/token"
        return response


def label_of(case: Any) -> str:
    return str(case.operation.label)


@pytest.fixture(scope="module")
def installation(world: World) -> Iterator[Installation]:
    operator = world.operator
    document = operator.api.get("/openapi.json")
    config = schemathesis.Config.from_dict(
        {"base-url": world.running.base_url, "generation": {"with-security-parameters": False}}
    )
    config.projects.default.checks.negative_data_rejection.expected_statuses = ["4xx"]
    mine = World(world.running, world.site, {"owner": operator, "operator": operator}, marker="conforming")
    with connection(SIGNED_IN_FROM) as signed_in, connection(ANONYMOUS_FROM) as anonymous:
        built = Installation(
            world,
            mine,
            document,
            schemathesis.openapi.from_dict(sealed(document), config=config),
            {"operator": signed_in, "anonymous": anonymous},
        )
        yield built


def sensible(installation: Installation) -> dict[str, Callable[[], Any]]:
    """By member: a value that gets further than an invented one."""
    serial = next(_serial)
    return {
        "email": lambda: f"conforming-{serial}@example.org",
        "roles": lambda: ["Viewer"],
        "permissions": lambda: ["docs:read"],
        "network": lambda: f"198.51.100.{serial % 250 + 1}",
        "password": lambda: PASSWORD,
        "current_password": lambda: PASSWORD,
        "new_password": lambda: "quite another phrase 29",
        "password_hash": lambda: "",
        "model": lambda: "extractive",
        "messages": lambda: [{"role": "user", "content": "Which pilot does the harbour agreement name?"}],
        "grounding": lambda: {"mode": "auto"},
        "query": lambda: "agreement of the harbour",
        "url": lambda: feed(installation, f"conforming{serial}"),
    }


def feed(installation: Installation, name: str) -> str:
    installation.world.site.publish(name, f"{name}-1", f"Ferry {name}", f"The ferry of {name} leaves at noon.")
    return installation.world.site.feed_url(name)


def takes_input(operation: Mapping[str, Any]) -> bool:
    """There is something that can be wrong; any text will do as a part of the path."""
    return "requestBody" in operation or any(entry["in"] != "path" for entry in operation.get("parameters", ()))


def cases() -> list[tuple[str, str, GenerationMode]]:
    """Operation, caller, valid or not."""
    return [
        (label, caller, mode)
        for label, operation in sorted(OPERATIONS.items())
        for caller in (("operator", "anonymous") if operation["x-permission"] == "nothing" else ("operator",))
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or takes_input(operation)
    ]


def test_the_gateway_serves_the_document_of_the_reference(installation: Installation) -> None:
    assert installation.document == DOCUMENT


@pytest.mark.parametrize(("label", "caller", "mode"), cases(), ids=lambda value: getattr(value, "value", value))
def test_operation_conforms(installation: Installation, label: str, caller: str, mode: GenerationMode) -> None:
    operation, act = installation.operation(label), TABLE[label]
    used_up = act.reach is not Reach.NOTHING and not label.startswith("GET ")
    ids: dict[str, str] = {}
    disposable = installation.world.disposable(installation.world.operator) if label in DISPOSABLE else None

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode), helped=st.booleans())
    def conforms(case: Any, helped: bool) -> None:
        nonlocal disposable
        if act.things and helped:
            if not ids:
                ids.update({name: installation.thing(kind, fresh=used_up) for name, kind in act.things.items()})
            case.path_parameters.update(ids)
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            # Feeds are never fetched from where an invented address may lead.
            members = {name: make for name, make in sensible(installation).items() if name in case.body and (helped or name == "url")}
            case.body.update({name: make() for name, make in members.items()})
        actor = None if caller == "anonymous" else disposable or installation.world.operator
        response = installation.send(case, actor)
        if disposable is not None and act.ends and response.status_code < 300:
            disposable = installation.world.disposable(installation.world.operator)

    conforms()
