"""Legacy text completions (`/v1/completions`) as chat completions, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from wireroom_chat.domain.members import Members, json_object
from wireroom_chat.domain.request import MAX_CHOICES, ChatRequest, parse_request

MAX_PROMPTS = 16
# What OpenAI documents for this endpoint.
_DEFAULT_TOKENS = 16
# Members that mean the same in a chat completion request.
_SAME = (
    "frequency_penalty",
    "logit_bias",
    "max_tokens",
    "metadata",
    "n",
    "presence_penalty",
    "seed",
    "stop",
    "temperature",
    "top_p",
    "user",
    "grounding",
)


@dataclass(frozen=True)
class TextRequest:
    """A checked request: one chat request for each prompt."""

    model: str
    prompts: tuple[str, ...]
    choices: int
    echo: bool
    include_usage: bool
    chats: tuple[ChatRequest, ...]


def parse_text_request(body: bytes, *, stream: bool) -> TextRequest:
    """Check the body; INVALID names every offending member."""
    raw = json_object(body)
    members = Members(raw)
    model = members.required_text("model", "The name of a model is required; GET /v1/models lists them.")
    prompts = _prompts(members)
    choices = members.integer("n", 1, MAX_CHOICES) or 1
    echo = members.boolean("echo", default=False)
    members.boolean("stream", default=False)
    if members.get("suffix"):
        members.refuse("suffix", "Text cannot be inserted: models are asked through chat completions. Leave 'suffix' out.")
    if members.get("logprobs") is not None:
        members.refuse("logprobs", "Log probabilities are given by /v1/chat/completions only.")
    if members.get("best_of") not in (None, choices):
        members.refuse("best_of", "Choices are not ranked: leave 'best_of' out or set it to the value of 'n'.")
    include_usage = members.mapping("stream_options").get("include_usage") is True
    members.check()
    same = {name: raw[name] for name in _SAME if raw.get(name) is not None}
    same.setdefault("max_tokens", _DEFAULT_TOKENS)
    chats = tuple(
        parse_request(
            orjson.dumps(
                {
                    "model": model,
                    "messages": [{"role": "user", "content": prompt}],
                    **same,
                    **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
                }
            ),
            stream=stream,
        )
        for prompt in prompts
    )
    return TextRequest(model, tuple(prompts), choices, echo, include_usage, chats)


def text_id(completion_id: str) -> str:
    """The id under which the first chat completion's answer is given out."""
    return f"cmpl-{completion_id.removeprefix('chatcmpl-')}"


def text_completion(request: TextRequest, answers: list[dict[str, Any]]) -> bytes:
    """One object of the answers, in the order of the prompts."""
    choices = [
        {
            "text": (prompt if request.echo else "") + (choice["message"].get("content") or ""),
            "index": position * request.choices + choice.get("index", 0),
            "logprobs": None,
            "finish_reason": _reason(choice.get("finish_reason")),
        }
        for position, (prompt, answer) in enumerate(zip(request.prompts, answers, strict=True))
        for choice in answer["choices"]
    ]
    return orjson.dumps(
        {
            "id": text_id(answers[0]["id"]),
            "object": "text_completion",
            "created": answers[0]["created"],
            "model": request.model,
            "choices": choices,
            "usage": summed_usage([answer.get("usage") or {} for answer in answers]),
        }
    )


def summed_usage(usages: list[Mapping[str, Any]]) -> dict[str, int]:
    """`usage` of several answers."""
    tokens_in, tokens_out = (
        sum(int(usage.get(name) or 0) for usage in usages) for name in ("prompt_tokens", "completion_tokens")
    )
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


class TextChunks:
    """Turns the chunks of one chat stream after the other into those of one text completion stream."""

    def __init__(self, request: TextRequest) -> None:
        self._request = request
        self._head: dict[str, Any] = {}
        self._usages: list[Mapping[str, Any]] = []

    def of(self, position: int, chunk: Mapping[str, Any]) -> Iterator[bytes]:
        """What to send for a chunk of the answer to the prompt at `position`."""
        if not self._head:
            self._head = {
                "id": text_id(chunk["id"]),
                "object": "text_completion",
                "created": chunk["created"],
                "model": self._request.model,
            }
        if isinstance(chunk.get("usage"), dict):
            self._usages.append(chunk["usage"])
        for choice in chunk["choices"]:
            text = choice["delta"].get("content") or ""
            reason = choice.get("finish_reason")
            if text or reason:
                yield self._choice(position, choice.get("index", 0), text, _reason(reason) if reason else None)

    def opening(self, position: int) -> Iterator[bytes]:
        """The prompt, when it was asked for; after the first chunk is known, before it is sent."""
        if self._request.echo:
            for index in range(self._request.choices):
                yield self._choice(position, index, self._request.prompts[position], None)

    def ending(self) -> Iterator[bytes]:
        """Usage, when it was asked for."""
        if self._request.include_usage:
            yield orjson.dumps({**self._head, "choices": [], "usage": summed_usage(self._usages)})

    def _choice(self, position: int, index: int, text: str, reason: str | None) -> bytes:
        number = position * self._request.choices + index
        choice = {"text": text, "index": number, "logprobs": None, "finish_reason": reason}
        return orjson.dumps({**self._head, "choices": [choice], **({"usage": None} if self._request.include_usage else {})})


def _prompts(members: Members) -> list[str]:
    value = members.get("prompt")
    prompts = [value] if isinstance(value, str) else value
    if not isinstance(prompts, list) or not prompts:
        members.refuse("prompt", "A text or a list of texts is required.")
        return []
    if len(prompts) > MAX_PROMPTS:
        members.refuse("prompt", f"At most {MAX_PROMPTS} prompts are taken at a time.")
        return []
    if not all(isinstance(prompt, str) for prompt in prompts):
        members.refuse("prompt", "Prompts must be texts: tokens cannot be turned back into the text of another model.")
        return []
    return prompts


def _reason(reason: Any) -> str:
    return reason if reason in ("stop", "length", "content_filter") else "stop"
