"""Messages in, messages out: RPC and events."""
