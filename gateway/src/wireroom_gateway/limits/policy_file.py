"""The policy file: YAML, checked strictly, read anew while the gateway runs."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from wireroom_common.errors import OperatorError
from wireroom_common.logging import get_logger
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.networks import AllowList, Network
from wireroom_gateway.limits.policy import (
    MAX_QUOTA,
    WINDOW_SECONDS,
    BlockRule,
    Limit,
    LimitScope,
    Overrides,
    Policy,
    PolicyTable,
    with_overrides,
)
from wireroom_gateway.metrics import GatewayMetrics

POLL_SECONDS = 2.0
MAX_BYTES = 1_000_000
_MAX_WINDOW = 86_400
_MAX_DEPTH = 8
_MAX_ERRORS = 20
_log = get_logger(__name__)


class PolicyFileError(OperatorError, ValueError):
    """A policy file that cannot be used; the message names the file, the line, the key and what to do."""


class _LineError(Exception):
    """What is wrong in one line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")


_ROW_HELP = "write a number of requests per minute (at least 1), {requests: …, window: …, shadow: …}, or unlimited"


def _short_form(value: object) -> object:
    # `ip: 20` is short for `ip: {requests: 20}`; `unlimited` is None, which an entry that was left empty must not become.
    if value == "unlimited":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return {"requests": value}
    if isinstance(value, dict):
        return value
    raise ValueError(_ROW_HELP)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Row(_Strict):
    requests: int = Field(ge=1, le=MAX_QUOTA)
    window: int = Field(WINDOW_SECONDS, ge=1, le=_MAX_WINDOW)
    shadow: bool = False


# None: unlimited.
_Limit = Annotated[_Row | None, BeforeValidator(_short_form)]


class _Scopes(_Strict):
    ip: _Limit = None
    user: _Limit = None
    key: _Limit = None
    tenant: _Limit = None
    # A Python keyword.
    everyone: _Limit = Field(None, alias="global")


class _TenantScopes(_Strict):
    user: _Limit = None
    key: _Limit = None
    tenant: _Limit = None


class _Blocks(_Strict):
    enabled: bool = True
    violations: int = Field(100, ge=2, le=10_000)
    window: int = Field(600, ge=1, le=_MAX_WINDOW)
    ttl: int = Field(3_600, ge=60, le=30 * 86_400)


def _uuid(value: object) -> object:
    try:
        return str(UUID(str(value)))
    except ValueError:
        raise ValueError("write the id as it is shown by the API, a UUID") from None


def _bucket(value: object) -> object:
    try:
        return Bucket(str(value))
    except ValueError:
        raise ValueError(f"is no bucket; there are {', '.join(Bucket)}") from None


def _network(value: object) -> object:
    try:
        return ipaddress.ip_network(str(value))
    except ValueError:
        raise ValueError("write an address or a network such as 192.0.2.0/24, without host bits") from None


_Id = Annotated[str, BeforeValidator(_uuid)]
_Bucket = Annotated[Bucket, BeforeValidator(_bucket)]


class _Document(_Strict):
    version: int = Field(ge=1, le=1)
    limits: dict[_Bucket, _Scopes] = Field(default_factory=dict)
    tenants: dict[_Id, dict[_Bucket, _TenantScopes]] = Field(default_factory=dict)
    keys: dict[_Id, dict[_Bucket, _Limit]] = Field(default_factory=dict)
    allow: list[Annotated[Network, BeforeValidator(_network)]] = Field(default_factory=list)
    blocks: _Blocks = Field(default_factory=_Blocks)


def parse_policy(text: bytes, name: str, table: PolicyTable) -> Policy:
    """The policy that `text` describes on top of `table`; `name` is the file's, for PolicyFileError."""
    if len(text) > MAX_BYTES:
        raise PolicyFileError(f"{name}: is larger than {MAX_BYTES} bytes; is this the policy file?")
    lines: dict[tuple[str, ...], int] = {}
    try:
        node = yaml.compose(text.decode("utf-8-sig"), Loader=yaml.SafeLoader)
        content = _plain(node, (), lines, set()) if node is not None else None
    except _LineError as error:
        raise PolicyFileError(f"{name}: {error}") from None
    except UnicodeDecodeError:
        raise PolicyFileError(f"{name}: is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PolicyFileError(f"{name}: line {line}: {error.problem or 'is not valid YAML'}") from None
    except (yaml.YAMLError, RecursionError):
        raise PolicyFileError(f"{name}: is not valid YAML") from None
    try:
        document = _Document.model_validate(content)
    except ValidationError as error:
        found = sorted({_sentence(entry, lines) for entry in error.errors(include_url=False, include_input=False)})
        told = "; ".join(f"line {line}: {sentence}" for line, sentence in found[:_MAX_ERRORS])
        raise PolicyFileError(f"{name}: {told}") from None
    return Policy(
        with_overrides(table, _flat(document.limits)),
        {tenant: _flat(buckets) for tenant, buckets in document.tenants.items()},
        {key: {(bucket, LimitScope.KEY): _limit(row) for bucket, row in rows.items()} for key, rows in document.keys.items()},
        AllowList(document.allow),
        BlockRule(**document.blocks.model_dump()),
    )


def read_policy(path: Path, table: PolicyTable) -> Policy:
    """The policy in a file; PolicyFileError also when it cannot be read."""
    return parse_policy(_read(path), str(path), table)


class PolicyFile:
    """Follows the file at `path`: `poll` takes over what changed; a file that cannot be used leaves the last good policy in force."""

    def __init__(self, path: Path, table: PolicyTable, metrics: GatewayMetrics) -> None:
        self._path = path
        self._table = table
        self._metrics = metrics
        text = _read(path)
        self._seen = hashlib.sha256(text).digest()
        self._policy = parse_policy(text, str(path), table)
        self._refusal = ""

    @property
    def bad(self) -> bool:
        """Whether the file as it is now cannot be used."""
        return bool(self._refusal)

    def policy(self) -> Policy:
        """The last good policy."""
        return self._policy

    async def poll(self) -> None:
        """Look once. The content counts, not the time of the change: a mounted volume swaps links instead of writing files."""
        try:
            text = await asyncio.to_thread(_read, self._path)
        except PolicyFileError as error:
            self._seen = b""
            self._refuse(error)
            return
        digest = hashlib.sha256(text).digest()
        if digest == self._seen:
            return
        self._seen = digest
        try:
            self._policy = await asyncio.to_thread(parse_policy, text, str(self._path), self._table)
        except PolicyFileError as error:
            self._refuse(error)
            return
        self._refusal = ""
        self._metrics.policy_bad.set(0)
        self._metrics.policy_loads.labels("loaded").inc()
        _log.info("limits_file_loaded", sha256=digest.hex()[:16])

    def _refuse(self, error: PolicyFileError) -> None:
        if self._refusal != str(error):
            _log.error("limits_file_refused", reason=str(error))
            self._metrics.policy_loads.labels("refused").inc()
        self._refusal = str(error)
        self._metrics.policy_bad.set(1)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read ({error.strerror})") from None


def _plain(node: yaml.Node, path: tuple[str, ...], lines: dict[tuple[str, ...], int], seen: set[int]) -> Any:
    """The node as plain values, each with its line. What YAML allows and nobody means is refused: repeated keys, references, tags."""
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if id(node) in seen:
        raise _LineError(line, "references (&, *) are not supported; write the value out")
    seen.add(id(node))
    if len(path) > _MAX_DEPTH:
        raise _LineError(line, "is nested too deeply")
    if isinstance(node, yaml.SequenceNode):
        return [_plain(entry, (*path, str(index)), lines, seen) for index, entry in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            at = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise _LineError(at, "a key must be a plain word")
            if key in mapping:
                raise _LineError(at, f"'{key}' stands here a second time; keep one")
            lines[(*path, key)] = at
            mapping[key] = _plain(value_node, (*path, key), lines, seen)
        return mapping
    return _scalar(node, line)


def _scalar(node: yaml.Node, line: int) -> Any:
    tag = str(node.tag).rpartition(":")[2]
    if tag == "str":
        return node.value
    if tag in ("int", "bool", "null", "float"):
        try:
            return yaml.SafeLoader("").construct_object(node)
        except ValueError:
            raise _LineError(line, f"'{node.value[:50]}' cannot be read as a number") from None
    raise _LineError(line, f"'{node.value}' is no text and no number; put quotes around it")


def _sentence(entry: Mapping[str, Any], lines: Mapping[tuple[str, ...], int]) -> tuple[int, str]:
    """Where, and what is wrong."""
    path: list[str] = []
    line = lines.get((), 1)
    for part in map(str, entry["loc"]):
        # The validator also names alternatives of a type; only what stands in the file has a line.
        if (*path, part) in lines:
            path.append(part)
            line = lines[tuple(path)]
    last = str(entry["loc"][-1]) if entry["loc"] else ""
    message = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "missing":
        message = f"'{last}' is missing"
    elif entry["type"] == "extra_forbidden":
        message = "is not known here; remove it or correct its name"
    elif entry["type"] in ("model_type", "dict_type", "model_attributes_type"):
        message = "write keys with values here"
    elif last == "version":
        message = "write 1, the version of this format"
    return line, f"{'.'.join(path) or 'the file'}: {message}"


def _flat(buckets: Mapping[Bucket, _Scopes] | Mapping[Bucket, _TenantScopes]) -> Overrides:
    rows: dict[tuple[Bucket, LimitScope], Limit | None] = {}
    for bucket, scopes in buckets.items():
        for name in scopes.model_fields_set:
            rows[bucket, LimitScope("global" if name == "everyone" else name)] = _limit(getattr(scopes, name))
    return rows


def _limit(row: _Row | None) -> Limit | None:
    return None if row is None else Limit(row.requests, row.window, row.shadow)
