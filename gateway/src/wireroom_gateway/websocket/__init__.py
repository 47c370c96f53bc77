"""Chat over WebSockets: the handshake passes the pipeline as the request that it is; what follows is served without it."""
