"""The client code of the documentation for signed requests."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

GUIDE = Path(__file__).parents[2] / "docs/how-to/sign-requests.md"


def guide() -> ModuleType:
    """The guide's Python block as a module."""
    found = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    spec = importlib.util.spec_from_loader("guide", loader=None)
    assert spec
    module = importlib.util.module_from_spec(spec)
    exec(found[1], module.__dict__)  # noqa: S102 - the documentation's own code
    return module
