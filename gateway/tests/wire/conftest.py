import sys
from collections.abc import AsyncIterator
from pathlib import Path

# Its pytest plugin imports it at the end of a run, which Python 3.11 fails to compile after a RecursionError in the same process.
import hypothesis  # noqa: F401 - imported for its effect
import pytest
import pytest_asyncio

# Test modules are imported by path; what they share stands beside them.
sys.path.insert(0, str(Path(__file__).parent))

from gateway_rig import Rig, running


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A gateway on a real socket, without limits."""
    async with running(tmp_path) as started:
        yield started


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    return tmp_path
