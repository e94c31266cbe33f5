#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The package grpcfd of python/ as a program under test. It uses what is below the stubs, for the
suite makes no RPCs."""
import os
import sys
import time

import grpc

import grpcfd
from grpcfd import _call, _fd_channel, _waiting


class Client:
    def __init__(self):
        self.channel = None
        self.calls = {}

    def call(self, name):
        if name not in self.calls:
            self.calls[name] = grpcfd.Call(_call.CallState(self.channel))
        return self.calls[name]

    def answer(self, command, *words):
        return getattr(self, command)(*words) or ""

    def open(self, path, *limits):
        limits = grpcfd.Limits(*map(int, limits))
        # With a relay, for that is what speaks version 2; gRPC does not connect to it.
        self.channel = _fd_channel.FdChannel(f"unix:{path}", limits, relay=True)
        self.channel._tried = True

    def attach(self, name, content):
        fd = os.memfd_create("client", os.MFD_CLOEXEC)
        try:
            os.write(fd, content.encode())
            return self.call(name).send(fd)
        finally:
            os.close(fd)

    def start(self, name):
        state = self.call(name)._state
        _waiting.run(state.open(10, False))
        if state._without is not None:
            raise state._without
        _waiting.run(state.send_queue())
        return state.bind(None)[0][1].hex()

    def take(self, name, url):
        fd = self.call(name).take(url, timeout=1)
        try:
            return os.pread(fd, 4096, 0).decode()
        finally:
            os.close(fd)

    def over(self, name):
        self.call(name)._state.end(grpc.StatusCode.OK)

    def end(self, name):
        self.calls.pop(name).close()

    def register(self, content):
        fd = os.memfd_create("client", os.MFD_CLOEXEC)
        os.write(fd, content.encode())
        return _waiting.run(self.channel.register(fd, time.monotonic() + 10))

    def unregister(self, url):
        self.channel.unregister(url)

    def fds(self):
        return str(len(os.listdir("/proc/self/fd")) - 1)


def main():
    client = Client()
    for line in sys.stdin:
        try:
            print(f"ok {client.answer(*line.split())}".rstrip(), flush=True)
        except grpcfd.FdError as error:
            print(f"error {error.code().name} {error.details()}", flush=True)


if __name__ == "__main__":
    main()
