# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""File descriptors along with gRPC calls over unix sockets: the client in Python.

    channel = grpcfd.insecure_channel("unix:/run/app.sock")
    stub = device_pb2_grpc.DeviceStub(channel)
    with grpcfd.call(channel) as fds:
        request = device_pb2.AttachRequest(memory=fds.attach(memory))
        reply = stub.Attach(request, metadata=fds.metadata)
        event = fds.take(reply.event)

grpcfd.aio has the same for asyncio. docs/guides/python.md is the manual.
"""
from grpcfd._call import Call, FileDescriptorLike
from grpcfd._channel import Channel, call, insecure_channel, intercept, secure_channel
from grpcfd._errors import FdError
from grpcfd._memory import memory, sealed_memory
from grpcfd._received import Limits
from grpcfd._version import __version__

__all__ = [
    "Call",
    "Channel",
    "FdError",
    "FileDescriptorLike",
    "Limits",
    "__version__",
    "call",
    "insecure_channel",
    "intercept",
    "memory",
    "sealed_memory",
    "secure_channel",
]
