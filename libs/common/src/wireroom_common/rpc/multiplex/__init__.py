"""Calls of one process to another in one gRPC stream (`multiplex.proto`), for the same generated stubs and servicers.

A client keeps one connection with one stream to each address of its target. The envelopes of one turn of the event loop leave as one
message, so the cost of a gRPC message is shared by all calls that are under way. Peers that do not know the stream, methods with a
stream of requests and large requests are served by ordinary gRPC, unseen by stubs and servicers.
"""
