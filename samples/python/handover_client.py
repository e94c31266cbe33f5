#!/usr/bin/env python3
# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The client of the handover sample, in Python: one call takes seven descriptors to the C++ server
and brings three back; a stream takes three more there and three back while it runs.

  handover_client.py unix:/run/user/1000/handover.sock

grpcfd is in five places: insecure_channel, call, attach, metadata, and take or open.
"""
import os
import socket
import sys
import tempfile

import handover_pb2
import handover_pb2_grpc

import grpcfd


def memory_file(content):
    fd = os.memfd_create("handover", os.MFD_CLOEXEC)
    os.write(fd, content.encode())
    return os.fdopen(fd, "r+b")


def content_of(file):
    """Without its offset, which the server's descriptor shares."""
    return os.pread(file.fileno(), 4096, 0).decode()


def expect(wanted, found):
    if found != wanted:
        sys.exit(f"handover_client.py: expected {wanted!r}, found {found!r}")


class Report:
    """One line for each descriptor."""

    def __init__(self):
        self.count = 0

    def __call__(self, kind, url, way, proof):
        self.count += 1
        print(f"{kind:16} {url:28} {way}  {proof}")

    def sent(self, kind, url, proof):
        self(kind, url, "client -> server", proof)

    def received(self, kind, url, proof):
        self(kind, url, "server -> client", proof)


def hand_over_all(channel, stub, report):
    unlinked = tempfile.TemporaryFile()
    unlinked.write(b"in a file without a name")
    memory = memory_file("in memory, in no file system")
    events = [os.eventfd(0), os.eventfd(0)]
    read_write = memory_file("opened twice")
    read_only = open(f"/proc/self/fd/{read_write.fileno()}", "rb")
    listener = socket.create_server(("127.0.0.1", 0))
    # The connection waits in the listener's queue for whoever has the listener.
    connection = socket.create_connection(listener.getsockname())
    connection.sendall(b"who accepts this?")
    connection.shutdown(socket.SHUT_WR)

    def describe(file, content, answer):
        return handover_pb2.Item(fd=fds.attach(file), content=content, answer=answer)

    with grpcfd.call(channel) as fds:
        request = handover_pb2.ExchangeRequest(
            unlinked_file=describe(unlinked, "in a file without a name", ", and read"),
            memory_file=describe(memory, "in memory, in no file system", ", and seen"),
            events=[
                handover_pb2.Item(fd=fds.attach(event), value=101 + k)
                for k, event in enumerate(events)
            ],
            read_only_file=describe(read_only, "opened twice", ""),
            read_write_file=describe(read_write, "opened twice", ", written once"),
            tcp_listener=describe(listener, "who accepts this?", "I do"),
        )
        # attach() sent duplicates: without ours, the server alone can accept.
        listener.close()
        read_only.close()
        reply = stub.Exchange(request, metadata=fds.metadata, timeout=20)

        for kind, sent, file in (
            ("unlinked file", request.unlinked_file, unlinked),
            ("memfd", request.memory_file, memory),
            ("file, read-write", request.read_write_file, read_write),
        ):
            # What the server wrote is in our file, for it is the same one.
            expect(sent.content + sent.answer, content_of(file))
            report.sent(kind, sent.fd.url, reply.proofs[sent.fd.url] + "; client saw the write")
            file.close()
        for sent, event in zip(request.events, events):
            expect(sent.value, os.eventfd_read(event))
            url = sent.fd.url
            report.sent("eventfd", url, reply.proofs[url] + f"; client read {sent.value}")
            os.close(event)
        url = request.read_only_file.fd.url
        report.sent("file, read-only", url, reply.proofs[url])
        url = request.tcp_listener.fd.url
        expect("I do", connection.makefile("r").read())
        report.sent("TCP listener", url, reply.proofs[url] + "; client got the answer")
        connection.close()

        # The two ends of a pipe have the same inode; the URLs' indices tell them apart.
        with fds.open(reply.pipe_write_end.fd, "wb") as pipe:
            pipe.write(b", and the client")
        with fds.open(reply.pipe_read_end.fd) as pipe:
            expect(reply.pipe_read_end.content + ", and the client", pipe.read().decode())
        report.received("pipe, read end", reply.pipe_read_end.fd.url, "client read it, to the end")
        report.received("pipe, write end", reply.pipe_write_end.fd.url, "client wrote")

        sealed = fds.take(reply.sealed_memory_file.fd)
        # Mapped, not copied. It refuses what is not sealed.
        expect(reply.sealed_memory_file.content, bytes(grpcfd.memory(sealed)).decode())
        os.close(sealed)
        report.received("memfd, sealed", reply.sealed_memory_file.fd.url, "client mapped it")


def hand_over_in_stream(channel, stub, report):
    files = []

    with grpcfd.call(channel) as fds:

        def requests():
            for _ in range(3):
                file = memory_file("one of a stream")
                # First the descriptor, then the message that names it.
                sent = handover_pb2.Item(
                    fd=fds.attach(file), content="one of a stream", answer=", and answered"
                )
                files.append((sent.fd.url, file))
                yield handover_pb2.ConverseRequest(memory_file=sent)

        replies = stub.Converse(requests(), metadata=fds.metadata, timeout=20)
        for number, reply in enumerate(replies):
            url, file = files[number]
            expect("one of a stream, and answered", content_of(file))
            file.close()
            report.sent("memfd, in stream", url, reply.proof + "; client saw the write")
            sent = reply.pipe_read_end
            with fds.open(sent.fd) as pipe:
                expect(sent.content, pipe.read().decode())
            report.received("pipe, in stream", sent.fd.url, "client read it, to the end")


def main(arguments):
    if len(arguments) != 1:
        sys.stderr.write(__doc__)
        return 2
    report = Report()
    with grpcfd.insecure_channel(arguments[0]) as channel:
        stub = handover_pb2_grpc.HandoverStub(channel)
        # gRPC opens some descriptors of its own with the first call, and keeps them.
        stub.OpenDescriptors(handover_pb2.OpenDescriptorsRequest(), wait_for_ready=True, timeout=20)
        with grpcfd.call(channel) as fds:
            stub.OpenDescriptors(handover_pb2.OpenDescriptorsRequest(), metadata=fds.metadata)
        before = set(os.listdir("/proc/self/fd"))
        hand_over_all(channel, stub, report)
        hand_over_in_stream(channel, stub, report)
        left = set(os.listdir("/proc/self/fd")) - before
    print(f"{report.count} descriptors handed over and proved; {len(left)} left open")
    return 1 if left or report.count != 16 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
