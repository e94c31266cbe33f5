# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""What outlives a call: restarts, kill -9, fork, many calls, and the end of the program."""
import os
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from conftest import content_of, eventually, memory_file, open_fds

import grpcfd

CALLS = int(os.environ.get("GRPCFD_PYTHON_CALLS", "10000"))


def exchange(channel, stub, request_of, **kind):
    """One call with a descriptor each way."""
    with grpcfd.call(channel) as fds:
        fd = memory_file(b"x")
        try:
            request = request_of(urls=[fds.send(fd)], payload=b"y", number=1)
        finally:
            os.close(fd)
        reply = stub.Exchange(request, metadata=fds.metadata, timeout=20, **kind)
        assert reply.payload == b"x"
        assert content_of(fds.take(reply.urls[0])) == b"y.0"


def outcome_of(error):
    """All that a failed call says."""
    return error.code(), error.details(), tuple(error.trailing_metadata() or ())


def works(channel, stub, request_of, cancelled=None):
    """Whether a call succeeds. UNAVAILABLE is what gRPC says, of any call, as long as it has not
    noticed that its connection has ended. CANCELLED is an error, unless there is a set for it: see
    PlainCalls."""
    try:
        exchange(channel, stub, request_of, wait_for_ready=True)
        return True
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.CANCELLED and cancelled is not None:
            cancelled.add(outcome_of(error))
        else:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
        return False


class PlainCalls:
    """Calls without descriptors on stock channels, one after the other in each of some threads, and
    how they fail. gRPC's server cancels what has reached it, and no handler yet, when it shuts
    down: a call with descriptors may fail as a plain one does, and in no other way."""

    # gRPC's own connections, so that none of them is grpcfd's.
    OPTIONS = [("grpc.use_local_subchannel_pool", 1)]

    def __init__(self, target, stubs):
        self.outcomes = set()
        self._target = target
        self._stubs = stubs
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]

    def _run(self):
        with grpc.insecure_channel(self._target, self.OPTIONS) as channel:
            stub = self._stubs[1].TestServiceStub(channel)
            while not self._end.is_set():
                try:
                    stub.Exchange(self._stubs[0].ExchangeRequest(), timeout=20, wait_for_ready=True)
                except grpc.RpcError as error:
                    self.outcomes.add(outcome_of(error))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        for thread in self._threads:
            thread.join()


def plain_outcomes(start_server, stubs):
    """How plain calls fail in one more restart."""
    old, new = start_server(), start_server()
    with PlainCalls(old.target, stubs) as plain:
        # The handler's answer, so the calls have begun.
        assert eventually(lambda: plain.outcomes)
        os.rename(new.path, old.path)
        old.drain()
        assert eventually(lambda: not old.runs())
    return plain.outcomes


def test_many_calls_leave_nothing_open(server, stubs):
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        exchange(channel, stub, request_of)
        file = memory_file(b"same")
        mine, theirs = open_fds(), server.ask("fds")
        for i in range(CALLS // 2):  # For each of the two servers.
            with grpcfd.call(channel) as fds:
                request = request_of(urls=[fds.send(file)], payload=b"y", number=2)
                reply = stub.Exchange(request, metadata=fds.metadata, timeout=60)
                # One is taken, one is left.
                os.close(fds.take(reply.urls[i % 2]))
        assert open_fds() == mine
        assert eventually(lambda: server.ask("fds") == theirs)
        os.close(file)


def test_a_restarted_server_is_found_again(server, stubs):
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        fd = memory_file(b"pool")
        url = channel.register(fd)
        os.close(fd)
        for end in (server.stop, server.kill, server.stop, server.kill):
            assert eventually(lambda: works(channel, stub, request_of))
            with grpcfd.call(channel) as fds:
                # Registered again with each session, under the same URL.
                reply = stub.Exchange(request_of(urls=[url]), metadata=fds.metadata)
                assert reply.payload == b"pool"
            end()
            with pytest.raises(grpc.RpcError) as error:
                exchange(channel, stub, request_of)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            server.start()


def test_a_rolling_restart(start_server, stubs):
    """The old server drains, held up by another client's stream; the new one has the path. Calls
    with descriptors succeed again although the session with the old one is alive."""
    old, new = start_server(), start_server()
    request_of = stubs[0].ExchangeRequest
    cancelled = set()
    with grpcfd.insecure_channel(old.target) as channel, PlainCalls(old.target, stubs) as plain:
        # A pool of its own: the other client's connection is not shared.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpcfd.insecure_channel(old.target, options) as other:
            go = threading.Event()

            def requests():
                yield request_of(number=1)
                go.wait()

            with grpcfd.call(other) as held:
                stream = stubs[1].TestServiceStub(other).Chat(requests(), metadata=held.metadata)
                url = next(stream).urls[0]
                stub = stubs[1].TestServiceStub(channel)
                exchange(channel, stub, request_of)
                first = channel.fd_channel._session
                # A call of the old session that still runs.
                with grpcfd.call(channel) as mine:
                    reply = stub.Exchange(request_of(number=1), metadata=mine.metadata)
                    os.rename(new.path, old.path)
                    old.drain()

                    # The old server may take some more calls before it has noticed.
                    def works_with_new():
                        return (
                            works(channel, stub, request_of, cancelled)
                            and channel.fd_channel._session is not first
                        )

                    assert eventually(works_with_new, 4)
                    assert old.runs()
                    assert content_of(mine.take(reply.urls[0])) == b".0"
                assert first.error() is not None  # It ended with its last call.
                for _ in range(20):
                    exchange(channel, stub, request_of)
                assert content_of(held.take(url)) == b".0"
                go.set()
                assert list(stream) == []
    # Whether a call is there at the moment is chance, for plain calls too: they get more moments.
    seen = set(plain.outcomes)
    for _ in range(20):
        if cancelled <= seen:
            break
        seen |= plain_outcomes(start_server, stubs)
    assert cancelled <= seen


def test_unavailable_of_a_handler_keeps_the_session(start_server, stubs):
    """Another status of the application's changes nothing but for one question to the server."""
    server = start_server()
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        exchange(channel, stub, request_of)
        first = channel.fd_channel._session
        first.in_doubt = True
        exchange(channel, stub, request_of)
        assert channel.fd_channel._session is first and not first.in_doubt
        assert server.ask("sessions") == 1


def test_a_call_waits_for_a_server_to_come(server, stubs):
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        server.stop()
        timer = threading.Timer(0.3, server.start)
        timer.start()
        assert eventually(lambda: works(channel, stub, request_of))
        timer.join()


def test_kill_9_in_the_middle(start_server, stubs):
    """Whoever is in a call gets an error, and nothing is left."""
    server = start_server()
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        exchange(channel, stub, request_of)
        stop = threading.Event()
        errors = []

        def work():
            while not stop.is_set():
                try:
                    exchange(channel, stub, request_of)
                except grpc.RpcError as error:
                    errors.append(error.code())
                except BaseException as error:
                    errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            seen = len(errors)
            server.kill()
            assert eventually(lambda: len(errors) > seen)
            server.start()
        stop.set()
        for thread in threads:
            thread.join()
        # NOT_FOUND: the RPC had ended, and the descriptor of its reply went down with the server.
        assert set(errors) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND}, set(errors)
        assert eventually(lambda: works(channel, stub, request_of))


def test_a_wait_ends_with_the_server(start_server, stubs):
    server = start_server()
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        with grpcfd.call(channel) as fds:
            go = threading.Event()

            def requests():
                yield request_of(command="unsent", number=1)
                go.wait()

            stream = stub.Chat(requests(), metadata=fds.metadata)
            urls = next(stream).urls
            timer = threading.Timer(0.1, server.kill)
            timer.start()
            with pytest.raises(grpcfd.FdError) as error:
                fds.take(urls[1], timeout=60)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
            # What had come is there.
            assert content_of(fds.take(urls[0])) == b".0"
            timer.join()
            go.set()
            with pytest.raises(grpc.RpcError):
                next(stream)
        server.start()


def in_child(body):
    """Runs it in a child of fork(2): its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_fork_between_calls(start_server, stubs):
    server = start_server()
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        exchange(channel, stub, request_of)

        def use():
            try:
                grpcfd.call(channel)
            except grpcfd.FdError as error:
                assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
                assert "fork" in error.details()
                return
            raise AssertionError("it was let through")

        # In between: a call that has sent and taken, and holds one.
        with grpcfd.call(channel) as fds:
            reply = stub.Exchange(request_of(number=2), metadata=fds.metadata)
            os.close(fds.take(reply.urls[0]))

            def use_the_call():
                for method in (fds.take, fds.dup):
                    try:
                        method(reply.urls[1])
                    except grpcfd.FdError as error:
                        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
                    else:
                        raise AssertionError("it was let through")
                fds.close()
                channel.fd_channel.close()
                left = [name for name in open_fds().values() if name.startswith("/memfd:test")]
                assert left == [], left

            assert in_child(use) == 0
            assert in_child(use_the_call) == 0
            # The parent goes on, with the same session.
            assert content_of(fds.take(reply.urls[1])) == b".1"
        exchange(channel, stub, request_of)
        assert server.ask("sessions") == 1


def test_fork_while_another_thread_waits(start_server, stubs):
    """The child can end the channel although a lock may have been held."""
    server = start_server()
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        go = threading.Event()
        with grpcfd.call(channel) as fds:

            def requests():
                yield request_of(command="unsent")
                go.wait()

            stream = stub.Chat(requests(), metadata=fds.metadata)
            url = next(stream).urls[0]
            waiter = threading.Thread(
                target=lambda: pytest.raises(grpcfd.FdError, fds.take, url, timeout=60)
            )
            waiter.start()

            def end():
                signal.alarm(20)
                # As if other threads had held them at the fork.
                channel.fd_channel._session._signal.lock.acquire(blocking=False)
                channel.fd_channel._signal.lock.acquire(blocking=False)
                fds._state._lock.acquire(blocking=False)
                fds.close()
                channel.fd_channel.close()

            for _ in range(5):
                assert in_child(end) == 0
            go.set()
            waiter.join()
        exchange(channel, stub, request_of)


def test_the_program_ends(server, stubs):
    """No thread of the package is left, none holds up the exit, and nothing is said."""
    program = f"""
import sys, threading
sys.path[:0] = {sys.path!r}
import grpcfd, test_pb2, test_pb2_grpc
channel = grpcfd.insecure_channel({server.target!r})
stub = test_pb2_grpc.TestServiceStub(channel)
stub.Exchange(test_pb2.ExchangeRequest(command="plain"))
before = threading.active_count()
fds = grpcfd.call(channel)
reply = stub.Exchange(test_pb2.ExchangeRequest(number=2), metadata=fds.metadata)
fds.take(reply.urls[0])
print(threading.active_count() - before)
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    assert time.monotonic() - began < 30


def test_a_forgotten_call_closes_what_it_holds(server, stubs):
    with grpcfd.insecure_channel(server.target) as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        exchange(channel, stub, request_of)
        before = open_fds()
        fds = grpcfd.call(channel)
        reply = stub.Exchange(request_of(number=4), metadata=fds.metadata)
        os.close(fds.take(reply.urls[0]))
        del fds
        assert open_fds() == before
