"""What another process has shown of an answer from sources, checked again before anything is added to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from wireroom_chat.domain.answer import Begun, Piece
from wireroom_chat.domain.passages import Passage
from wireroom_chat.usecases.stream_opening import lost


def in_order(passages: Sequence[Passage], begun: Begun | None) -> list[Passage]:
    """Those that stood in the prompt, under their numbers; UNAVAILABLE `stream_lost` where one is not there any more.

    All of them for an answer that begins here.
    """
    if begun is None:
        return list(passages)
    known = {passage.id: passage for passage in passages}
    if not known.keys() >= set(begun.sources):
        raise lost()
    return [known[name] for name in begun.sources]


async def shown_before(
    begun: Begun | None, sources: Sequence[str], check: Callable[[str], Awaitable[Piece | None]]
) -> tuple[Piece, ...]:
    """The pieces with their citations. `sources`: the ids of the passages as they are numbered here.

    UNAVAILABLE `stream_lost` where the numbers, or what the sources bear out, are not the same any more.
    """
    if begun is None:
        return ()
    if tuple(sources) != begun.sources:
        raise lost()
    checked = []
    for text in begun.pieces:
        piece = await check(text)
        if piece is None or piece.text != text:
            raise lost()
        checked.append(piece)
    return tuple(checked)
