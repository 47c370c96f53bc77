"""URL forms: one for fetching a feed, one that identifies an article."""

from __future__ import annotations

import re
from urllib.parse import unquote_plus, urlsplit

MAX_URL = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TRACKING_PREFIXES = ("utm_", "at_custom", "pk_", "mtm_", "hsa_", "oly_")
_TRACKING = frozenset(
    {
        "_hsenc", "_hsmi", "at_campaign", "at_medium", "cmpid", "dclid", "fbclid", "gad_source", "gbraid", "gclid", "gclsrc", "icid",
        "igshid", "mc_cid", "mc_eid", "mkt_tok", "msclkid", "ocid", "ref_src", "s_cid", "srsltid", "ttclid", "twclid", "vero_id",
        "wbraid", "wt_mc", "xtor", "yclid",
    }
)  # fmt: skip
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\U0010ffff\"<>\\^`{|}]")


class UrlRefusedError(ValueError):
    """The text is not a URL this service takes; the message says why."""


def feed_url(text: str) -> str:
    """The address of a feed in one spelling (case of scheme and host, default port, fragment); UrlRefusedError otherwise."""
    if len(text) > MAX_URL:
        msg = f"it is longer than {MAX_URL} characters"
        raise UrlRefusedError(msg)
    scheme, netloc, path, query = _parts(text, allow_user=False)
    return f"{scheme}://{netloc}{path}{'?' + query if query else ''}"


def canonical_url(text: str) -> str | None:
    """The form under which two links are the same article: as `feed_url`, without credentials and tracking parameters. Idempotent.

    None for anything but an http(s) URL of at most 2,048 characters.
    """
    try:
        scheme, netloc, path, query = _parts(text, allow_user=True)
    except UrlRefusedError:
        return None
    kept = "&".join(part for part in query.split("&") if part and not _is_tracking(part))
    result = f"{scheme}://{netloc}{path}{'?' + kept if kept else ''}"
    return result if len(result) <= MAX_URL else None


def is_front_page(url: str) -> bool:
    """Whether a canonical URL names a whole site, so that it identifies no article."""
    parts = urlsplit(url)
    return parts.path in ("", "/") and not parts.query


def _parts(text: str, *, allow_user: bool) -> tuple[str, str, str, str]:
    try:
        # The fragment goes first: white space before it is the end of the URL too.
        split = urlsplit(text.partition("#")[0].strip())
        port, host = split.port, split.hostname or ""
    except ValueError:
        msg = "it cannot be read as a URL"
        raise UrlRefusedError(msg) from None
    if split.scheme not in _DEFAULT_PORTS:
        msg = "only http and https are fetched"
        raise UrlRefusedError(msg)
    if not allow_user and "@" in split.netloc:
        msg = "it must not contain a user name or password"
        raise UrlRefusedError(msg)
    netloc = _host(host)
    if port is not None and port != _DEFAULT_PORTS[split.scheme]:
        netloc = f"{netloc}:{port}"
    path = split.path if split.path.startswith("/") else "/" + split.path
    return split.scheme, netloc, _encoded(path), _encoded(split.query)


def _host(host: str) -> str:
    host = host.rstrip(".").lower()
    if ":" in host:
        host = f"[{host}]"
    elif not host.isascii():
        try:
            host = host.encode("idna").decode().rstrip(".")
        except UnicodeError:
            host = ""
    if not _HOST.fullmatch(host):
        msg = "it names no host"
        raise UrlRefusedError(msg)
    return host


def _encoded(text: str) -> str:
    try:
        return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)
    except UnicodeEncodeError:
        msg = "it is not valid Unicode"
        raise UrlRefusedError(msg) from None


def _is_tracking(part: str) -> bool:
    name = unquote_plus(part.partition("=")[0]).lower()
    return name in _TRACKING or name.startswith(_TRACKING_PREFIXES)
