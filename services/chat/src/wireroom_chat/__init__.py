"""The chat service: grounded answers and provider models behind one OpenAI-compatible contract."""
