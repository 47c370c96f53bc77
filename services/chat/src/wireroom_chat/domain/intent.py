"""Which prompts cannot be answered by quoting."""

from __future__ import annotations

import re

_POLITE = (
    r"(?:(?:please|hey|hi|hello|ok|okay|now|can you|could you|would you|will you"
    r"|i want you to|i need you to|i'd like you to|help me(?: to)?)[\s,!]+)*"
)
_GENERATE = re.compile(
    rf"^\W*{_POLITE}(?:"
    r"write|compose|draft|invent|imagine|translate|rewrite|rephrase|paraphrase|proofread|brainstorm|pretend|role-?play|act as|sing|rhyme"
    r"|(?:generate|create|make(?: up)?|give me|tell me|produce|build|design|come up with)"
    r"\s+(?:me\s+)?(?:an?|some|the|\d+)?\s*(?:[a-z]+\s+){0,2}"
    r"(?:poem|haiku|limerick|sonnet|story|joke|song|lyrics|rap|essay|email|e-mail|letter|speech|slogan|tweet|caption|code|script|function|program|class"
    r"|regex|query|ideas?|names?|riddle|dialogue|screenplay|recipe|plan|outline|image|picture)\b"
    r"|(?:implement|code|program|refactor|debug|fix)\s+(?:me\s+)?(?:an?|the|this|my|some)\b"
    r"|(?:in|into)\s+(?:french|german|spanish|italian|english|chinese|japanese)\s*[:,]"
    r"|how (?:do|would) (?:you|i) say\b"
    r")",
    re.IGNORECASE,
)
_CHAT = re.compile(
    r"^\W*(?:(?:hi|hello|hey|yo|good (?:morning|afternoon|evening|night)|greetings|thanks|thank you|thx|cheers|bye|goodbye|see you)"
    r"(?:\s+(?:there|all|everyone|so much|very much|a lot|again|wireroom|bot|assistant|you))*"
    r"|(?:hi |hello |hey )?(?:there[, ]+)?(?:how are you(?: doing)?(?: today)?"
    r"|how(?:'s| is) it going|what(?:'s| is) up|who are you|what are you|what(?:'s| is) your name"
    r"|are you (?:an? )?(?:ai|bot|human|robot)|do you (?:like|love|feel)\b.*|what can you do|tell me about yourself))\W*$",
    re.IGNORECASE,
)


def needs_generation(prompt: str) -> bool:
    """Whether the prompt asks for new text (a poem, code, a translation, small talk) instead of what the sources say."""
    text = prompt.replace("\u2019", "'").strip()
    return _GENERATE.match(text) is not None or _CHAT.match(text) is not None
