"""The rpc face of the service."""
