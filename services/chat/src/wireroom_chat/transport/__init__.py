"""The rpc surface."""
