"""What a route demands of its callers. A route without a declaration stops the start: deny by default."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from enum import Enum, StrEnum
from typing import Any, TypeVar

from starlette.routing import BaseRoute, Route, WebSocketRoute

T = TypeVar("T")
_ATTRIBUTE = "__wireroom_access__"
# Stands for the method where a route is a WebSocket: its handshake is a GET, and not one that a GET route answers.
WEBSOCKET = "WEBSOCKET"


class Need(Enum):
    """Demands that are not a permission."""

    NOTHING = "nothing"
    SIGNED_IN = "signed_in"


class Bucket(StrEnum):
    """Groups of routes that share rate limits."""

    CHAT = "chat"
    API = "api"
    NEWS = "news"
    UPLOAD = "upload"
    AUTH = "auth"


class Body(StrEnum):
    """Which size limit a request body has."""

    JSON = "json"
    CHAT = "chat"
    UPLOAD = "upload"


@dataclass(frozen=True)
class Deprecation:
    """A route that will go: since when, when (not before), and the page or route that tells what to use instead."""

    since: datetime
    sunset: datetime
    successor: str

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`Deprecation` (RFC 9745), `Sunset` (RFC 8594) and a link to the successor."""
        return [
            (b"deprecation", f"@{int(self.since.timestamp())}".encode()),
            (b"sunset", format_datetime(self.sunset, usegmt=True).encode()),
            (b"link", f'<{self.successor}>; rel="successor-version"'.encode()),
        ]


@dataclass(frozen=True)
class Access:
    """`need`: a permission's name, or a `Need`. `bucket` None: not rate limited. `any_host`: probes address machines by number."""

    need: str | Need
    bucket: Bucket | None = Bucket.API
    body: Body = Body.JSON
    any_host: bool = False
    # A good answer holds a credential: it is not stored for repeated requests.
    secret_answer: bool = False
    # Takes what people say to a model or look for: free text, which may tell of attacks.
    prompt: bool = False
    # A good answer tells of what its caller may read now: it is not given again once anybody of the tenant may read less.
    quotes: bool = False
    # The body is a credential: a block of anonymous callers of an address does not concern it.
    credential_in_body: bool = False
    deprecated: Deprecation | None = None


def access(
    need: str | Need,
    *,
    bucket: Bucket | None = Bucket.API,
    body: Body = Body.JSON,
    any_host: bool = False,
    secret_answer: bool = False,
    prompt: bool = False,
    quotes: bool = False,
    credential_in_body: bool = False,
    deprecated: Deprecation | None = None,
) -> Callable[[T], T]:
    """Declare what an endpoint demands. Goes under the route decorator, or on an instance that serves as an endpoint."""
    declaration = Access(need, bucket, body, any_host, secret_answer, prompt, quotes, credential_in_body, deprecated)

    def mark(endpoint: T) -> T:
        setattr(endpoint, _ATTRIBUTE, declaration)
        return endpoint

    return mark


@dataclass(frozen=True)
class DeclaredRoute:
    """One method of one path."""

    method: str
    template: str
    access: Access
    route: Route | WebSocketRoute


@dataclass(frozen=True)
class Match:
    """What the table knows of a path: its template, and its route by method."""

    template: str
    methods: Mapping[str, DeclaredRoute]


class RouteTable:
    """All routes of the application; finds the template of a path without the framework."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        by_template: dict[str, dict[str, DeclaredRoute]] = {}
        patterns: dict[str, re.Pattern[str]] = {}
        for route in routes:
            checked = _checked(route)
            patterns[checked.path_format] = checked.path_regex
            for declared in _declared(checked):
                by_template.setdefault(declared.template, {})[declared.method] = declared
        self.matches = tuple(Match(template, methods) for template, methods in by_template.items())
        self._exact = {match.template: match for match in self.matches if "{" not in match.template}
        self._patterns = [(patterns[match.template], match) for match in self.matches if "{" in match.template]

    def match(self, path: str) -> Match | None:
        """The entry for a path; exact paths win over patterns."""
        found = self._exact.get(path)
        if found is None:
            for pattern, match in self._patterns:
                if pattern.match(path):
                    return match
        return found


def _checked(route: BaseRoute) -> Route | WebSocketRoute:
    if not isinstance(route, (Route, WebSocketRoute)):
        raise TypeError(f"{route!r} is not a plain route: only those can be checked for their access declaration.")
    return route


def _declared(route: Route | WebSocketRoute) -> list[DeclaredRoute]:
    declaration: Any = getattr(route.endpoint, _ATTRIBUTE, None)
    if not isinstance(declaration, Access):
        raise TypeError(f"{route.path} has no access declaration: put @access(…) on its endpoint.")
    methods = {WEBSOCKET} if isinstance(route, WebSocketRoute) else route.methods
    if not methods:
        raise TypeError(f"{route.path} names no methods.")
    return [DeclaredRoute(method, route.path_format, declaration, route) for method in sorted(methods)]
