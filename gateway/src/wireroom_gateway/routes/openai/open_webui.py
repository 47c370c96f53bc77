"""Sources as Open WebUI shows them, for clients that ask with `X-Citations-Format: openwebui`; others would stumble over such chunks."""

from __future__ import annotations

from typing import Any

import orjson

HEADER = b"x-citations-format"
NAME = b"openwebui"


class SourceEvents:
    """Reads the chunks of a chat stream and makes an event of each citation in them."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def after(self, chunk: bytes) -> list[bytes]:
        """The chunks to send after `chunk`, as JSON."""
        events = []
        for choice in orjson.loads(chunk).get("choices", ())[:1]:
            delta = choice.get("delta") or {}
            if isinstance(delta.get("content"), str):
                self._text.append(delta["content"])
            annotations = delta.get("annotations") or ()
            text = "".join(self._text) if annotations else ""
            events += [
                orjson.dumps({"event": {"type": "source", "data": _source(entry["url_citation"], text)}})
                for entry in annotations
                if isinstance(entry, dict) and isinstance(entry.get("url_citation"), dict)
            ]
        return events


def _source(citation: dict[str, Any], text: str) -> dict[str, Any]:
    """`document` is the part of the answer that the source supports."""
    url, title = citation.get("url", ""), citation.get("title", "")
    supported = text[citation.get("start_index", 0) : citation.get("end_index", 0)]
    return {
        "source": {"name": title or url, "url": url},
        "document": [supported],
        "metadata": [{"source": url, "name": title or url}],
    }
