# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors land where their call lands: restarts, several processes, servers of version 1. With
a relay, but where a test says what holds without one."""
import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from conftest import content_of, eventually, leaked, memory_file, open_fds
from life_test import PlainCalls, exchange, in_child, outcome_of, plain_outcomes

import grpcfd
import grpcfd.aio
from grpcfd import _fd_channel, _keeper, _wire

CANCELLED = grpc.StatusCode.CANCELLED


class Load:
    """Calls with descriptors, one after the other in each of some threads."""

    def __init__(self, channel, stubs, threads=4):
        self.calls = 0
        self.failures = []
        self._channel = channel
        self._stub = stubs[1].TestServiceStub(channel)
        self._request_of = stubs[0].ExchangeRequest
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self):
        while not self._end.is_set():
            try:
                exchange(self._channel, self._stub, self._request_of, wait_for_ready=True)
                self.calls += 1
            except grpc.RpcError as error:
                self.failures.append(outcome_of(error))
            except BaseException as error:
                self.failures.append((None, repr(error), ()))

    def more(self, number=100):
        """That many more calls have succeeded."""
        goal = self.calls + number
        return eventually(lambda: self.calls >= goal, 60)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def running_stream(target, stubs):
    """Another client's stream, which holds a server up that drains."""
    go = threading.Event()

    def requests():
        yield stubs[0].ExchangeRequest(number=1)
        go.wait()

    with grpcfd.insecure_channel(target, relay=True) as channel:
        with grpcfd.call(channel) as fds:
            stub = stubs[1].TestServiceStub(channel)
            stream = stub.Chat(requests(), metadata=fds.metadata)
            url = next(stream).urls[0]
            try:
                yield
                assert content_of(fds.take(url)) == b".0"
            finally:
                go.set()
            assert list(stream) == []


def check_cancelled(failures, plain, start_server, stubs):
    """gRPC's server cancels what has reached it, and no handler yet, when it shuts down. No call
    may fail in another way, and plain ones fail in this one too, if they get the chance."""
    assert {code for code, _, _ in failures} <= {CANCELLED}, failures
    seen = set(plain.outcomes)
    for _ in range(20):
        if set(failures) <= seen:
            break
        seen |= plain_outcomes(start_server, stubs)
    assert set(failures) <= seen, failures


def test_rolling_restarts_lose_no_call(start_server, stubs):
    """Each time the old server drains, held up by a stream, and the new one has the path."""
    server = start_server()
    target = server.target
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(grpcfd.insecure_channel(target, relay=True))
        plain = stack.enter_context(PlainCalls(target, stubs))
        with Load(channel, stubs) as load:
            for style in ("callback", "sync", "callback"):
                assert load.more()
                with running_stream(target, stubs):
                    new = start_server(style)
                    os.rename(new.path, target[len("unix:"):])
                    server.drain()
                    assert load.more(200)
                    assert server.runs()
                assert eventually(lambda: not server.runs())
                server = new
                assert load.more()
    check_cancelled(load.failures, plain, start_server, stubs)
    assert load.calls >= 1000


def test_a_path_that_is_renamed_over(start_server, stubs):
    """The old server lives, and gRPC's connection with it: calls go there."""
    old = start_server()
    with grpcfd.insecure_channel(old.target, relay=True) as channel:
        stub = stubs[1].TestServiceStub(channel)
        # gRPC has connected, and there is no session yet.
        stub.Exchange(stubs[0].ExchangeRequest(command="plain"), timeout=20)
        new = start_server()
        os.rename(new.path, old.path)
        with Load(channel, stubs) as load:
            assert load.more(400)
        assert load.failures == []
        assert (old.ask("sessions"), new.ask("sessions")) == (1, 0)


@pytest.fixture
def shared(tmp_path):
    """A listening socket from which several processes accept: its path and its number."""
    path = str(tmp_path / "shared")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(128)
        yield path, listener.fileno()


@pytest.mark.parametrize("style", ["sync", "callback"])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_accept_from_one_socket(start_server, stubs, shared, style, processes):
    path, listener = shared
    servers = [start_server(style, path, listen_fd=listener) for _ in range(processes)]
    with contextlib.ExitStack() as stack:
        channels = [
            stack.enter_context(grpcfd.insecure_channel(f"unix:{path}", relay=True))
            for _ in range(24)
        ]
        for _ in range(10):
            for channel in channels:
                exchange(channel, stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest)
        # One session for each connection, and more than one process has some.
        counts = [server.ask("sessions") for server in servers]
        assert sum(counts) == len(channels)
        assert sum(map(bool, counts)) > 1


def test_without_a_relay_a_channel_finds_its_process(start_server, stubs, shared):
    """The calls that it costs are UNAVAILABLE, and few."""
    path, listener = shared
    for _ in range(2):
        start_server("sync", path, listen_fd=listener)
    options = [("grpc.use_local_subchannel_pool", 1)]
    failures = 0
    for _ in range(20):
        with grpcfd.insecure_channel(f"unix:{path}", options) as channel:
            stub = stubs[1].TestServiceStub(channel)
            good = 0
            while good < 10:
                try:
                    exchange(channel, stub, stubs[0].ExchangeRequest)
                    good += 1
                except grpc.RpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE
                    assert "is gone, and its descriptors with it" in error.details()
                    failures += 1
                    assert good == 0, "it had found it"
                    assert failures < 60
    assert failures  # Or the test is none.


@pytest.mark.parametrize("style", ["sync", "callback"])
def test_kill_9_costs_no_more_than_plain_calls(start_server, stubs, style):
    server = start_server(style)
    with grpcfd.insecure_channel(server.target, relay=True) as channel:
        with Load(channel, stubs) as load:
            for _ in range(4):
                assert load.more(100)
                server.kill()
                server.start()
            assert load.more(100)
    # NOT_FOUND: the RPC had ended, and the descriptor of its reply went down with the server.
    codes = {code for code, _, _ in load.failures}
    assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}, load.failures
    # Those that ran, in each thread.
    assert len(load.failures) <= 4 * 4, load.failures


def test_a_call_that_waited_for_long_is_sent_again(start_server, stubs):
    """The server has closed what came early: see early_timeout."""
    server = start_server(early_timeout=1)
    with grpcfd.insecure_channel(server.target, relay=True) as channel:
        stub = stubs[1].TestServiceStub(channel)
        exchange(channel, stub, stubs[0].ExchangeRequest)
        before = server.ask("fds")
        with grpcfd.call(channel) as fds:
            state = fds._state
            fd = memory_file(b"late")
            request = stubs[0].ExchangeRequest(urls=[fds.send(fd)])
            os.close(fd)
            send_queue = state.send_queue

            def send_and_wait():
                yield from send_queue()
                assert eventually(lambda: server.ask("fds") > before)
                assert eventually(lambda: server.ask("fds") == before)

            state.send_queue = send_and_wait
            assert stub.Exchange(request, metadata=fds.metadata, timeout=20).payload == b"late"
            del state.send_queue


def test_what_is_kept_is_closed_once_the_call_has_landed(server, stubs):
    """So that whoever reads a pipe, whose other end was sent, need not wait for the call's end."""
    with grpcfd.insecure_channel(server.target, relay=True) as channel:
        stub = stubs[1].TestServiceStub(channel)
        for _ in range(20):
            go = threading.Event()

            def requests():
                yield stubs[0].ExchangeRequest(urls=[url])
                go.wait()

            with grpcfd.call(channel) as fds:
                fd = memory_file(b"kept")
                url = fds.send(fd)
                os.close(fd)
                stream = stub.Chat(requests(), metadata=fds.metadata, timeout=60)
                assert next(stream).payload == b"kept"
                assert eventually(lambda: "/memfd:test (deleted)" not in open_fds().values())
                go.set()
                assert list(stream) == []


def fake_server(path, session_version):
    """A server of this version, for one session: its thread, and the hellos that it got."""
    hellos = []
    ends = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve():
        with listener, contextlib.ExitStack() as grpcs:
            while not ends:
                with contextlib.ExitStack() as stack:
                    connection = stack.enter_context(listener.accept()[0])
                    data = connection.recv(64)
                    if not data.startswith(_wire.HELLO_MAGIC):
                        grpcs.enter_context(stack.pop_all())
                        continue
                    hellos.append(data)
                    reply = bytearray(64)
                    reply[:8] = _wire.REPLY_MAGIC
                    reply[8] = 64
                    reply[10] = session_version
                    if any(data[44:]):
                        reply[12] = _wire.MALFORMED
                        connection.send(reply)
                        continue
                    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    reply[16], reply[24], reply[28] = 7, 16, 64
                    socket.send_fds(connection, [reply], [theirs.fileno()])
                    theirs.close()
                    ends.append(mine)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread, hellos, ends


def test_a_server_of_version_1(tmp_path):
    """It calls a hello with a connection malformed, and gets one without."""
    path = str(tmp_path / "old")
    thread, hellos, ends = fake_server(path, 1)
    channel = _fd_channel.FdChannel(f"unix:{path}", relay=True)
    with socket.socket(socket.AF_UNIX) as grpcs:
        grpcs.connect(channel.grpc_target[len("unix:"):])
        grpcs.send(b"PRI")
        assert eventually(lambda: channel._connections)
        session = _fd_channel._waiting.run(channel.session(time.monotonic() + 20, False))
        assert session.version == 1 and session.id == 7
        thread.join()
        assert [any(hello[44:60]) for hello in hellos] == [True, False]
        session.close()
    channel.close()
    channel.close_relay()
    ends[0].close()


def test_aio(start_server, stubs, shared):
    path, listener = shared
    for _ in range(2):
        start_server("callback", path, listen_fd=listener)

    async def one(channel, number):
        stub = stubs[1].TestServiceStub(channel)
        async with grpcfd.aio.call(channel, timeout=20) as fds:
            fd = memory_file(b"%d" % number)
            request = stubs[0].ExchangeRequest(urls=[await fds.send(fd)], payload=b"r", number=1)
            os.close(fd)
            reply = await stub.Exchange(request, metadata=fds.metadata)
            assert reply.payload == b"%d" % number
            assert content_of(await fds.take(reply.urls[0])) == b"r.0"

    async def run():
        for _ in range(8):
            async with grpcfd.aio.insecure_channel(f"unix:{path}", relay=True) as channel:
                for _ in range(3):
                    await asyncio.gather(*(one(channel, number) for number in range(10)))

    asyncio.run(run())


def test_registered_ones_are_in_each_session(start_server, stubs):
    old, new = start_server(), start_server()
    request_of = stubs[0].ExchangeRequest
    with grpcfd.insecure_channel(old.target, relay=True) as channel:
        stub = stubs[1].TestServiceStub(channel)
        fd = memory_file(b"pool")
        url = channel.register(fd)
        os.close(fd)

        def use():
            with grpcfd.call(channel) as fds:
                request = request_of(urls=[url])
                try:
                    reply = stub.Exchange(
                        request, metadata=fds.metadata, timeout=20, wait_for_ready=True
                    )
                except grpc.RpcError as error:
                    assert error.code() == CANCELLED  # See check_cancelled().
                    return False
                return reply.payload == b"pool"

        assert use()
        with running_stream(old.target, stubs):
            os.rename(new.path, old.path)
            old.drain()
            for _ in range(50):
                assert eventually(use)
        assert eventually(lambda: not old.runs())
        for _ in range(50):
            assert use()
        channel.unregister(url)


def grpcfds_threads():
    return [thread for thread in threading.enumerate() if thread.name == "grpcfd"]


def test_the_thread_ends_with_the_last_channel(server, stubs):
    before = open_fds()
    channels = [grpcfd.insecure_channel(server.target, relay=True) for _ in range(3)]
    for channel in channels:
        exchange(channel, stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest)
    assert len(grpcfds_threads()) == 1
    channels.pop().close()
    exchange(channels[0], stubs[1].TestServiceStub(channels[0]), stubs[0].ExchangeRequest)
    while channels:
        channels.pop().close()
    del channel  # One is let go of, too.
    assert eventually(lambda: not grpcfds_threads())
    assert eventually(lambda: not leaked(before))


def test_a_channel_that_is_let_go_of(server, stubs):
    channel = grpcfd.insecure_channel(server.target, relay=True)
    stub = stubs[1].TestServiceStub(channel)
    exchange(channel, stub, stubs[0].ExchangeRequest)
    assert server.ask("sessions") == 1
    del channel, stub
    gc.collect()
    assert eventually(lambda: not grpcfds_threads())
    assert eventually(lambda: server.ask("sessions") == 0)


def test_fork(server, stubs):
    """The child has none of the relay's sockets, and the parent goes on."""
    with grpcfd.insecure_channel(server.target, relay=True) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        exchange(channel, stub, request_of)
        relay = channel.fd_channel._relay
        numbers = [relay._place, relay._listener.fileno()]
        for link in relay.links:
            numbers += [link._near.fileno(), link._far.fileno(), link._handle]

        def use():
            assert not set(numbers) & set(open_fds())
            assert _keeper._current is None
            with pytest.raises(grpcfd.FdError) as error:
                grpcfd.call(channel)
            assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
            channel.fd_channel.close()
            channel.fd_channel.close_relay()

        for _ in range(5):
            assert in_child(use) == 0
            exchange(channel, stub, request_of)
        assert server.ask("sessions") == 1


def test_the_program_ends(server, stubs):
    """Whether it closes the channel or not."""
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
import grpcfd, test_pb2, test_pb2_grpc
channel = grpcfd.insecure_channel({server.target!r}, relay=True)
stub = test_pb2_grpc.TestServiceStub(channel)
with grpcfd.call(channel) as fds:
    reply = stub.Exchange(test_pb2.ExchangeRequest(number=2), metadata=fds.metadata)
    fds.take(reply.urls[0])
print("called")
"""
    for end in ("", "channel.close()\n", "stub = channel = None\n"):
        done = subprocess.run(
            [sys.executable, "-c", program + end], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "called\n", "")
