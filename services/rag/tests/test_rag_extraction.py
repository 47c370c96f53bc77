from __future__ import annotations

from wireroom_rag.extraction.formats import markdown_text


def test_html_inside_markdown_gives_its_visible_text_and_no_script() -> None:
    source = b"\n\n".join(
        [
            b"# Tax\n<script>alert(1)</script> The Kumquat duty is 31 crowns",
            b"<!-- secret note -->",
            b"<div>Box text</div>",
            b"End <b>bold</b>.",
        ]
    )
    words = " ".join(markdown_text(source).split())
    assert words == "Tax The Kumquat duty is 31 crowns Box text End bold."
