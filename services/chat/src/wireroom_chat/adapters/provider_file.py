"""The file of providers and aliases: YAML, checked strictly, with the line of each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError

from wireroom_chat.usecases.provider_documents import (
    ANONYMOUS_KEY,
    MAX_ALIASES,
    MAX_PROVIDERS,
    AliasDocument,
    ProviderDocument,
    Strict,
    check_alias_name,
    check_provider_name,
)
from wireroom_common.errors import OperatorError

MAX_BYTES = 1_000_000
_MAX_DEPTH = 8
_MAX_ERRORS = 20


class ProvidersFileError(OperatorError, ValueError):
    """A file that cannot be used; the message names the file, the line, the member and what to do."""


class _LineError(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")


class FileDocument(Strict):
    """The whole file."""

    version: int = Field(ge=1, le=1)
    providers: dict[Annotated[str, AfterValidator(check_provider_name)], ProviderDocument] = Field(
        default_factory=dict, max_length=MAX_PROVIDERS
    )
    aliases: dict[Annotated[str, AfterValidator(check_alias_name)], AliasDocument] = Field(
        default_factory=dict, max_length=MAX_ALIASES
    )


def read_text(path: Path) -> bytes:
    """The file's content, at most a byte more than is allowed; ProvidersFileError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProvidersFileError(f"{path}: cannot be read ({error.strerror})") from None


def parse(text: bytes, name: str) -> FileDocument:
    """What the file says; `name` is its name, for ProvidersFileError."""
    if len(text) > MAX_BYTES:
        raise ProvidersFileError(f"{name}: is larger than {MAX_BYTES} bytes; is this the file of providers?")
    lines: dict[tuple[str, ...], int] = {}
    try:
        node = yaml.compose(text.decode("utf-8-sig"), Loader=yaml.SafeLoader)
        content = _plain(node, (), lines, set()) if node is not None else None
    except _LineError as error:
        raise ProvidersFileError(f"{name}: {error}") from None
    except UnicodeDecodeError:
        raise ProvidersFileError(f"{name}: is not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ProvidersFileError(f"{name}: line {line}: {error.problem or 'is not valid YAML'}") from None
    except (yaml.YAMLError, RecursionError):
        raise ProvidersFileError(f"{name}: is not valid YAML") from None
    try:
        document = FileDocument.model_validate(content)
    except ValidationError as error:
        found = sorted({_sentence(entry, lines) for entry in error.errors(include_url=False, include_input=False)})
        told = "; ".join(f"line {line}: {sentence}" for line, sentence in found[:_MAX_ERRORS])
        raise ProvidersFileError(f"{name}: {told}") from None
    for provider, entry in document.providers.items():
        for key, place in entry.keys.items():
            if place.env is None and place.file is None:
                line = lines[("providers", provider, "keys", key)]
                raise ProvidersFileError(f"{name}: line {line}: providers.{provider}.keys.{key}: write env or file")
    _check_candidates(document, name, lines)
    return document


def _check_candidates(document: FileDocument, name: str, lines: Mapping[tuple[str, ...], int]) -> None:
    """Candidates of the file's own providers must exist there; those of others may come later."""
    for alias, entry in document.aliases.items():
        for index, candidate in enumerate(entry.candidates):
            provider_name, _, model = candidate.model.partition("/")
            provider = document.providers.get(provider_name)
            if provider is None:
                continue
            line = lines[("aliases", alias, "candidates", str(index))]
            place = f"{name}: line {line}: aliases.{alias}.candidates.{index}"
            if model not in provider.models:
                raise ProvidersFileError(f"{place}: '{provider_name}' has no model '{model}'")
            if candidate.key and candidate.key not in (provider.places() or {ANONYMOUS_KEY}):
                raise ProvidersFileError(f"{place}: '{provider_name}' has no key '{candidate.key}'")


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
    raise _LineError(line, "is no text and no number; put quotes around it")


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
