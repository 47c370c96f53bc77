"""The fields of a signed request: `Signature-Input` and `Signature` (RFC 9421), `Content-Digest` (RFC 9530).

A strict subset of structured fields (RFC 8941): one signature, components without parameters. What is not understood is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass

_MAX_FIELD = 4_096
_MAX_COMPONENTS = 32
_LABEL = r"[a-z*][a-z0-9_.*-]{0,63}"
_STRING = r'"[\x20\x21\x23-\x5b\x5d-\x7e]*"'
_INPUT = re.compile(
    rf"({_LABEL})=\( *((?:{_STRING}(?: +{_STRING})*)?) *\)((?:; *{_LABEL}=(?:{_STRING}|-?\d{{1,15}}))*)", re.ASCII
)
_PARAMETER = re.compile(rf"; *({_LABEL})=({_STRING}|-?\d{{1,15}})", re.ASCII)
_BYTES = re.compile(rf"({_LABEL})=:([A-Za-z0-9+/]*={{0,2}}):", re.ASCII)
_COMPONENT = re.compile(r"@?[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)


class UnreadableSignatureError(ValueError):
    """Why the fields cannot be used; may be told to the client."""


@dataclass(frozen=True)
class SignatureInput:
    """What was signed and with what. `parameters` keep their order: they are signed as they stand."""

    label: str
    components: tuple[str, ...]
    parameters: Mapping[str, str | int]

    def serialized(self) -> str:
        """The value of `@signature-params`."""
        names = " ".join(f'"{name}"' for name in self.components)
        written = "".join(
            f";{name}={value}" if isinstance(value, int) else f';{name}="{value}"' for name, value in self.parameters.items()
        )
        return f"({names}){written}"


def parse_signature_input(text: str) -> SignatureInput:
    """The one signature that `text` describes."""
    found = _INPUT.fullmatch(_trimmed(text, "Signature-Input"))
    if found is None:
        raise UnreadableSignatureError('Signature-Input must describe exactly one signature: sig1=("@method" …);created=…;…')
    components = tuple(name.strip('"') for name in re.findall(_STRING, found[2]))
    if len(components) > _MAX_COMPONENTS or not all(_COMPONENT.fullmatch(name) for name in components):
        raise UnreadableSignatureError("Signature-Input names a component that no request has.")
    if len(set(components)) != len(components):
        raise UnreadableSignatureError("Signature-Input names a component twice.")
    parameters: dict[str, str | int] = {}
    for name, value in _PARAMETER.findall(found[3]):
        if name in parameters:
            raise UnreadableSignatureError(f"Signature-Input has the parameter '{name}' twice.")
        parameters[name] = value[1:-1] if value.startswith('"') else int(value)
    return SignatureInput(found[1], components, parameters)


def parse_signature(text: str, label: str) -> bytes:
    """The signature called `label`; there must be no other."""
    found = _BYTES.fullmatch(_trimmed(text, "Signature"))
    if found is None or found[1] != label:
        raise UnreadableSignatureError(f"Signature must hold the one signature that Signature-Input describes: {label}=:…:")
    return _decoded(found[2], "Signature")


def parse_content_digest(text: str) -> dict[str, bytes]:
    """Digests by algorithm, as far as they are known here: `sha-256` and `sha-512`, at least one of them."""
    digests: dict[str, bytes] = {}
    for entry in _trimmed(text, "Content-Digest").split(","):
        found = _BYTES.fullmatch(entry.strip(" \t"))
        if found is None or found[1] in digests:
            raise UnreadableSignatureError("Content-Digest must look like sha-256=:…:")
        digests[found[1]] = _decoded(found[2], "Content-Digest")
    known = {name: value for name, value in digests.items() if name in ("sha-256", "sha-512")}
    if not known:
        raise UnreadableSignatureError("Content-Digest must hold sha-256 or sha-512.")
    return known


def _trimmed(text: str, name: str) -> str:
    if len(text) > _MAX_FIELD:
        raise UnreadableSignatureError(f"{name} is too long.")
    return text.strip(" \t")


def _decoded(text: str, name: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableSignatureError(f"{name} is not base64.") from None
