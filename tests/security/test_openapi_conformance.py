"""The running gateway against its own OpenAPI document: generated requests, valid and not, to every operation.

No 5xx, no status, media type or member that is not declared, nothing accepted that the schema refuses. The cases are derived, not
random: a run that fails fails again.
"""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from access_table import PASSWORD, TABLE, Reach
from access_world import Actor, World, find_answers
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
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
    "DELETE /api/v1/privacy/me": "erases the user, and wrong passwords slow the user down",
    "DELETE /api/v1/privacy/tenant": "wrong passwords slow the user down",
}
# Where a body that breaks the schema may be accepted, though nothing else about the answer may be wrong.
UNREFUSED: Mapping[str, str] = {
    "POST /api/v1/documents": "a part of a form is bytes, whatever the generator made them of: a file of JSON is a file",
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
PROBLEM, OPENAI = "application/problem+json", "application/json"
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
        if name in {"Problem", "OpenAIError"} or name.endswith("Output"):
            assert model["type"] == "object", name
            model.setdefault("additionalProperties", False)
    # The document describes a stream as the text that it is; the generator holds each of its events against this.
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/responses"):
        stream = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
        stream["schema"] = {
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string", "pattern": r"^(\{.*\}|\[DONE\])$"}},
        }
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
        if kind in {"provider", "model", "tool"}:
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
        return case.call_and_validate(
            session=self.connections["operator" if caller else "anonymous"],
            headers=headers,
            checks=CHECKS,
            excluded_checks=[conformance.negative_data_rejection] if label_of(case) in UNREFUSED else [],
            timeout=TIMEOUT,
            allow_redirects=False,
        )


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


def sensible(installation: Installation, label: str, generated: Mapping[str, Any]) -> dict[str, Any]:
    """Members that get further than invented ones: those of the access table, and others for what the generator has chosen to send."""
    fresh = f"conforming-{next(_serial)}"
    body: dict[str, Any] = json.loads(json.dumps(TABLE[label].body or {}).replace("{fresh}", fresh))
    others = {
        "roles": ["Viewer"],
        "permissions": ["docs:read"],
        "password": PASSWORD,
        "password_hash": "",
        "principal": "",
        "grounding": {"mode": "auto"},
    }
    return {name: value for name, value in others.items() if name in generated} | body


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
    seen: set[int] = set()
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
    def conforms(case: Any, *, helped: bool) -> None:
        nonlocal disposable
        # The first one always is.
        helped = helped or not seen
        if act.things and helped:
            if not ids:
                ids.update({name: installation.thing(kind, fresh=used_up) for name, kind in act.things.items()})
            case.path_parameters.update(ids)
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and act.form is None:
            if helped:
                case.body.update(sensible(installation, label, case.body))
            if helped and act.upload:
                case.body["file"] = b"The harbour master signs for the quay.\n"
            if "url" in case.body:
                # Never fetched from where an invented address may lead.
                case.body["url"] = feed(installation, f"conforming-{next(_serial)}")
        actor = None if caller == "anonymous" else disposable or installation.world.operator
        response = installation.send(case, actor)
        seen.add(response.status_code)
        if disposable is not None and act.ends and response.status_code < 300:
            disposable = installation.world.disposable(installation.world.operator)

    conforms()

    if mode is GenerationMode.POSITIVE and act.status < 300:
        # What is asked gets through to where it is done.
        assert act.status in seen


def test_answers_with_credentials_conform(installation: Installation) -> None:
    """What no generated request is given: it takes secrets that were given out before."""
    world = installation.world
    user = world.disposable(world.operator)
    account = {"email": user.email, "password": PASSWORD}

    def ask(label: str, body: Any, *, key: str = "", status: int = 200, form: bool = False) -> Any:
        method, _, path = label.partition(" ")
        response = installation.connections["anonymous"].request(
            method,
            address(installation, path),
            **{"data" if form else "json": body},
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=TIMEOUT,
        )
        assert response.status_code == status, (label, response.text)
        installation.operation(label).validate_response(response)
        return response.json() if response.content else None

    invited = ask(
        "POST /api/v1/admin/invitations",
        {"email": f"conforming-{next(_serial)}@example.org", "roles": ["Viewer"]},
        key=world.operator.api.key,
        status=201,
    )
    ask(
        "POST /auth/register",
        {"email": invited["email"], "password": PASSWORD, "invitation_token": invited["token"]},
        status=201,
    )
    opened = ask("POST /auth/login", account)
    ask("POST /auth/refresh", {"refresh_token": opened["refresh_token"]})
    made = ask("POST /auth/api-keys", {"name": "machine"}, key=user.api.key, status=201)
    client = {"grant_type": "client_credentials", "client_id": made["id"], "client_secret": made["secret"]}
    ask("POST /auth/token", client, form=True)

    enrolled = ask("POST /auth/mfa/totp/enroll", {"password": PASSWORD}, key=user.api.key)
    secret = base64.b32decode(enrolled["secret"] + "=" * (-len(enrolled["secret"]) % 8))
    code = TOTP(secret, 6, SHA1(), 30).generate(int(time.time())).decode()  # noqa: S303 - RFC 6238
    codes = ask("POST /auth/mfa/totp/verify", {"code": code}, key=user.api.key)["recovery_codes"]
    ask("GET /auth/mfa", None, key=user.api.key)
    halfway = ask("POST /auth/login", account)
    finished = ask("POST /auth/login/mfa", {"mfa_token": halfway["mfa_token"], "code": codes[0]})
    ask("POST /auth/mfa/totp/disable", {"password": PASSWORD, "code": codes[1]}, key=finished["access_token"], status=204)


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON.keys())
@pytest.mark.parametrize("label", sorted(label for label, operation in OPERATIONS.items() if "requestBody" in operation))
def test_what_is_not_json_is_refused_as_declared(installation: Installation, label: str, body: bytes) -> None:
    method, _, path = label.partition(" ")
    response = installation.connections["operator"].request(
        method,
        address(installation, path),
        data=body,
        headers={"Authorization": f"Bearer {installation.world.operator.api.key}", "Content-Type": "application/json"},
        timeout=TIMEOUT,
    )
    assert response.status_code in {400, 415, 422}, response.text
    assert_told(OPERATIONS[label], response)
    installation.operation(label).validate_response(response)


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"]))
def test_other_methods_are_405_and_name_those_there_are(installation: Installation, path: str) -> None:
    there = {method.upper() for method in DOCUMENT["paths"][path]}
    for method in sorted({*METHODS} - there):
        response = installation.connections["operator"].request(method, address(installation, path), timeout=TIMEOUT)
        assert response.status_code == 405, (method, response.text)
        assert set(response.headers["allow"].split(", ")) == there
        assert method == "HEAD" or response.headers["content-type"] == (OPENAI if path.startswith("/v1/") else PROBLEM)


def address(installation: Installation, path: str) -> str:
    return installation.world.running.base_url + re.sub(r"\{\w+\}", "x", path)


def assert_told(operation: Mapping[str, Any], response: requests.Response) -> None:
    """With a declared status, in the declared form."""
    assert str(response.status_code) in operation["responses"]
    assert response.headers["content-type"] in operation["responses"][str(response.status_code)]["content"]
