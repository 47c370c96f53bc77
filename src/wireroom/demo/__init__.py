"""A sample feed and sample documents, about a company that does not exist."""

from pathlib import Path

# The one private address that feeds may be fetched from when nothing is configured.
DEMO_ADDRESS = "127.0.0.1:8765"
DOCUMENTS = Path(__file__).parent / "documents"
