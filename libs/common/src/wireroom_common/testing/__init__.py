"""What tests of several packages share: real servers, polling with a time limit."""

from wireroom_common.testing.polling import eventually

__all__ = ["eventually"]
