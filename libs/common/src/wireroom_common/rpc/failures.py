"""Error kinds on the wire: gRPC status plus `ErrorDetail` in trailing metadata, and back."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf.message import DecodeError

from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError
from wireroom_protos.common.v1.error_pb2 import ErrorDetail, FieldError
from wireroom_protos.common.v1.error_pb2 import ErrorKind as ProtoErrorKind

ERROR_KEY = "x-error-bin"
# Trailing metadata has a hard limit on both sides of a connection (METADATA_BYTES in options); the error must fit whatever it says.
_MAX_DETAIL = 2000
_MAX_FIELDS = 32
_MAX_FIELD_TEXT = 200
_MAX_MESSAGE = 200
_MAX_CODE = 100
_MAX_BYTES = 16 * 1024

_STATUS = {
    ErrorKind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorKind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorKind.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    ErrorKind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    ErrorKind.CONFLICT: grpc.StatusCode.ABORTED,
    ErrorKind.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    ErrorKind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    ErrorKind.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    ErrorKind.INTERNAL: grpc.StatusCode.INTERNAL,
}

_TO_PROTO = {kind: ProtoErrorKind.Value(f"ERROR_KIND_{kind.name}") for kind in ErrorKind}
_FROM_PROTO = {value: kind for kind, value in _TO_PROTO.items()}

_UNAVAILABLE = (ErrorKind.UNAVAILABLE, "rpc_unavailable", "A part of the service cannot be reached. Try again.", 1.0)
_OVERLOADED = (
    ErrorKind.UNAVAILABLE,
    "rpc_overloaded",
    "A part of the service has too many requests in progress. Try again.",
    1.0,
)
_TOO_LARGE = (
    ErrorKind.TOO_LARGE,
    "message_too_large",
    "The message is larger than the services exchange (24 MiB). Send less.",
    0.0,
)
_INTERNAL = (ErrorKind.INTERNAL, "internal", "An internal error occurred.", 0.0)

# For failures that no servicer described: those of the transport, and of servers that are not ours.
_BARE = {
    grpc.StatusCode.UNAVAILABLE: _UNAVAILABLE,
    grpc.StatusCode.CANCELLED: (ErrorKind.UNAVAILABLE, "rpc_cancelled", "The operation was given up. Try again.", 1.0),
    grpc.StatusCode.DEADLINE_EXCEEDED: (ErrorKind.DEADLINE, "rpc_deadline", "The operation did not finish in time.", 0.0),
    grpc.StatusCode.RESOURCE_EXHAUSTED: _OVERLOADED,
    grpc.StatusCode.INVALID_ARGUMENT: (ErrorKind.INVALID, "rpc_invalid", "The request was refused as invalid.", 0.0),
    grpc.StatusCode.OUT_OF_RANGE: (ErrorKind.INVALID, "rpc_invalid", "The request was refused as invalid.", 0.0),
    grpc.StatusCode.UNAUTHENTICATED: (ErrorKind.UNAUTHENTICATED, "rpc_unauthenticated", "The caller is not authenticated.", 0.0),
    grpc.StatusCode.PERMISSION_DENIED: (ErrorKind.FORBIDDEN, "rpc_forbidden", "The caller may not do this.", 0.0),
    grpc.StatusCode.NOT_FOUND: (ErrorKind.NOT_FOUND, "rpc_not_found", "There is no such thing.", 0.0),
    grpc.StatusCode.ALREADY_EXISTS: (ErrorKind.CONFLICT, "rpc_conflict", "The change conflicts with the current state.", 0.0),
    grpc.StatusCode.ABORTED: (ErrorKind.CONFLICT, "rpc_conflict", "The change conflicts with the current state.", 0.0),
    grpc.StatusCode.FAILED_PRECONDITION: (
        ErrorKind.CONFLICT,
        "rpc_conflict",
        "The change conflicts with the current state.",
        0.0,
    ),
    grpc.StatusCode.UNIMPLEMENTED: (ErrorKind.INTERNAL, "rpc_unimplemented", "The operation is not offered by the service.", 0.0),
}


def internal_error() -> WireroomError:
    """What a caller learns of an exception nobody foresaw: nothing."""
    return _error(_INTERNAL)


def unavailable_error() -> WireroomError:
    """The peer cannot be reached."""
    return _error(_UNAVAILABLE)


def deadline_error() -> WireroomError:
    """The call did not finish within its deadline."""
    return _error(_BARE[grpc.StatusCode.DEADLINE_EXCEEDED])


def status_of(error: WireroomError) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Status code, message and trailing metadata for `error`; long texts are cut so that they fit."""
    detail = ErrorDetail(
        kind=_TO_PROTO[error.kind],
        code=error.code[:_MAX_CODE],
        detail=error.detail[:_MAX_DETAIL],
        fields=[
            FieldError(field=problem.field[:_MAX_FIELD_TEXT], message=problem.message[:_MAX_FIELD_TEXT])
            for problem in error.fields[:_MAX_FIELDS]
        ],
        retry_after=error.retry_after,
    )
    while detail.ByteSize() > _MAX_BYTES and detail.fields:
        del detail.fields[-1]
    return _STATUS[error.kind], error.detail[:_MAX_MESSAGE], ((ERROR_KEY, detail.SerializeToString()),)


def error_from(
    code: grpc.StatusCode, message: str | None, trailing_metadata: Iterable[tuple[str, str | bytes]] | None
) -> WireroomError:
    """The error a failed call stands for: as the servicer raised it if it said so, else by status.

    The transport's own message never becomes the detail: it names addresses.
    """
    for key, value in trailing_metadata or ():
        if key == ERROR_KEY and isinstance(value, bytes):
            restored = _restore(value)
            if restored is not None:
                return restored
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in (message or ""):
        return _error(_TOO_LARGE)
    return _error(_BARE.get(code, _INTERNAL))


def _restore(value: bytes) -> WireroomError | None:
    try:
        detail = ErrorDetail.FromString(value)
    except DecodeError:
        return None
    kind = _FROM_PROTO.get(detail.kind)
    if kind is None:
        return None
    return WireroomError(
        kind,
        detail.code,
        detail.detail,
        fields=[FieldProblem(entry.field, entry.message) for entry in detail.fields],
        retry_after=detail.retry_after,
    )


def _error(entry: tuple[ErrorKind, str, str, float]) -> WireroomError:
    kind, code, detail, retry_after = entry
    return WireroomError(kind, code, detail, retry_after=retry_after)
