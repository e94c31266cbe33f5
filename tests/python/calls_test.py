# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Calls with descriptors to C++ servers, synchronous and callback: all kinds, and all errors."""
import fcntl
import os
import socket
import subprocess
import threading

import grpc
import numpy
import pytest
from conftest import content_of, memory_file

import grpcfd
from grpcfd.v1 import descriptor_pb2


@pytest.fixture
def channel(server):
    with grpcfd.insecure_channel(server.target) as channel:
        yield channel


@pytest.fixture
def stub(stubs, channel):
    return stubs[1].TestServiceStub(channel)


@pytest.fixture
def request_of(stubs):
    return stubs[0].ExchangeRequest


def send(fds, content):
    fd = memory_file(content)
    try:
        return fds.send(fd)
    finally:
        os.close(fd)


def code_of(error):
    return error.value.code()


def test_unary_both_ways(channel, stub, request_of):
    for call in range(3):
        with grpcfd.call(channel) as fds:
            urls = [send(fds, b"%d" % i) for i in range(16)]
            request = request_of(urls=urls, payload=b"reply", number=16)
            reply = stub.Exchange(request, metadata=fds.metadata, timeout=20)
            assert reply.payload == b"\n".join(b"%d" % i for i in range(16))
            # In the order of whoever asks.
            for i in reversed(range(16)):
                assert content_of(fds.dup(reply.urls[i])) == b"reply.%d" % i
                assert content_of(fds.take(reply.urls[i])) == b"reply.%d" % i


def test_attach_gives_a_descriptor_message(channel, stub, request_of):
    with memory_as_file(b"typed") as file, grpcfd.call(channel) as fds:
        message = fds.attach(file, label="pool", offset=1, size=2)
        assert (message.label, message.offset, message.size) == ("pool", 1, 2)
        request = request_of(urls=[message.url], number=1)
        reply = stub.Exchange(request, metadata=fds.metadata)
        assert reply.payload == b"typed"
        assert content_of(fds.take(descriptor_pb2.Descriptor(url=reply.urls[0]))) == b".0"


def memory_as_file(content):
    file = os.fdopen(memory_file(b""), "wb")
    file.write(content)  # It stays in the buffer: send() flushes.
    return file


def test_open_gives_a_file(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        reply = stub.Exchange(request_of(payload=b"x", number=1), metadata=fds.metadata)
        with fds.open(reply.urls[0]) as file:
            file.seek(0)
            assert file.read() == b"x.0"


def test_with_other_metadata_and_with_call(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        request = request_of(urls=[send(fds, b"one")], number=1)
        metadata = [("key", "value"), *fds.metadata, ("other-bin", b"\0")]
        reply, call = stub.Exchange.with_call(request, metadata=metadata)
        assert call.code() == grpc.StatusCode.OK
        assert reply.payload == b"one"
        os.close(fds.take(reply.urls[0]))


def test_future(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        future = stub.Exchange.future(
            request_of(urls=[send(fds, b"one")], number=1), metadata=fds.metadata
        )
        reply = future.result()
        assert reply.payload == b"one"
        os.close(fds.take(reply.urls[0]))


def test_received_are_close_on_exec(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        reply = stub.Exchange(request_of(number=2), metadata=fds.metadata)
        taken = [fds.take(reply.urls[0]), fds.dup(reply.urls[1])]
        for fd in taken:
            assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        child = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], check=True, capture_output=True, text=True,
            close_fds=False,
        )
        assert "memfd:" not in child.stdout
        for fd in taken:
            os.close(fd)


def test_download_takes_each_as_its_message_comes(server, channel, stub, request_of):
    # More than the window: what was taken makes room. A callback server does not wait for that.
    number = 200 if server.style == "sync" else 60
    with grpcfd.call(channel) as fds:
        stream = stub.Download(request_of(payload=b"d", number=number), metadata=fds.metadata)
        for i, reply in enumerate(stream):
            assert content_of(fds.take(reply.urls[0])) == b"d.%d.0" % i
        assert i == number - 1


def test_upload_sends_while_the_call_runs(channel, stub, request_of):
    with grpcfd.call(channel) as fds:

        def requests():
            for i in range(200):
                yield request_of(urls=[send(fds, b"%d" % i)])

        reply = stub.Upload(requests(), metadata=fds.metadata, timeout=60)
        assert reply.payload == b"\n".join(b"%d" % i for i in range(200))


def test_chat(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        ready = threading.Semaphore(1)

        def requests():
            for i in range(100):
                ready.acquire()
                yield request_of(urls=[send(fds, b"up.%d" % i)], payload=b"%d" % i, number=2)

        stream = stub.Chat(requests(), metadata=fds.metadata, timeout=60)
        for i, reply in enumerate(stream):
            assert reply.payload == b"up.%d" % i
            for k in (1, 0):
                assert content_of(fds.take(reply.urls[k])) == b"%d.%d" % (i, k)
            ready.release()
        assert i == 99


def test_calls_without_descriptors_are_grpcs(channel, stub, request_of):
    assert stub.Exchange(request_of(command="plain")).payload == b""
    assert [r for r in stub.Chat(iter([request_of(command="plain")]))] != []


def test_threads_share_the_session(server, channel, stub, request_of):
    errors = []

    def work(name):
        try:
            for i in range(50):
                with grpcfd.call(channel) as fds:
                    mine = b"%d.%d" % (name, i)
                    request = request_of(urls=[send(fds, mine)], payload=mine, number=3)
                    reply = stub.Exchange(request, metadata=fds.metadata, timeout=60)
                    assert reply.payload == mine
                    for k, url in enumerate(reply.urls):
                        assert content_of(fds.take(url)) == mine + b".%d" % k
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert server.ask("sessions") == 1


def test_register_is_for_all_calls(channel, stub, request_of):
    fd = memory_file(b"pool")
    url = channel.register(fd)
    os.close(fd)
    for _ in range(3):
        with grpcfd.call(channel) as fds:
            request = request_of(urls=[url, url])
            assert stub.Exchange(request, metadata=fds.metadata).payload == b"pool\npool"
    channel.unregister(url)
    with grpcfd.call(channel) as fds, pytest.raises(grpc.RpcError) as error:
        stub.Exchange(request_of(urls=[url]), metadata=fds.metadata)
    assert code_of(error) == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpcfd.FdError) as error:
        channel.unregister(url)
    assert code_of(error) == grpc.StatusCode.NOT_FOUND


def test_register_has_a_limit(channel):
    fd = memory_file(b"pool")
    for _ in range(16):
        channel.register(fd)
    with pytest.raises(grpcfd.FdError) as error:
        channel.register(fd)
    os.close(fd)
    assert code_of(error) == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_what_the_server_registers_stays(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        request = request_of(command="register", payload=b"s", number=2)
        urls = stub.Exchange(request, metadata=fds.metadata).urls
    for _ in range(2):
        with grpcfd.call(channel) as fds:
            stub.Exchange(request_of(), metadata=fds.metadata)
            assert content_of(fds.take(urls[1])) == b"s.1"
            assert content_of(fds.take(urls[0])) == b"s.0"
            with pytest.raises(grpcfd.FdError) as error:
                fds.take(urls[0].replace("=0", "=7"))
            assert code_of(error) == grpc.StatusCode.NOT_FOUND


def test_memory(channel, stub, request_of):
    values = numpy.arange(1000, dtype="f4")
    fd = grpcfd.sealed_memory(values.data)
    with grpcfd.call(channel) as fds:
        url = fds.send(fd)
        reply = stub.Exchange(request_of(urls=[url], number=1), metadata=fds.metadata)
        assert reply.payload == values.tobytes()[:4096]
        with pytest.raises(grpcfd.FdError) as error:
            unsealed = fds.take(reply.urls[0])
            try:
                grpcfd.memory(unsealed)
            finally:
                os.close(unsealed)
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
    view = grpcfd.memory(fd)
    os.close(fd)
    array = numpy.frombuffer(view, dtype="f4")
    assert (array == values).all()
    assert not array.flags.writeable and not array.flags.owndata
    del view
    assert array[999] == 999  # It keeps the mapping.


def test_memory_says_what_is_wrong():
    with open("/etc/hostname", "rb") as file, pytest.raises(grpcfd.FdError) as error:
        grpcfd.memory(file.fileno())
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
    fd = grpcfd.sealed_memory(b"four")
    with pytest.raises(grpcfd.FdError) as error:
        grpcfd.memory(fd, max_size=3)
    assert code_of(error) == grpc.StatusCode.OUT_OF_RANGE
    assert bytes(grpcfd.memory(fd, max_size=4)) == b"four"
    os.close(fd)
    fd = grpcfd.sealed_memory(b"")
    assert bytes(grpcfd.memory(fd)) == b""
    os.close(fd)
    with pytest.raises(OSError):
        grpcfd.memory(fd)


def test_memory_refuses_huge_pages():
    try:
        fd = os.memfd_create("huge", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError:
        return  # A kernel without them has none to refuse.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 15)
    with pytest.raises(grpcfd.FdError) as error:
        grpcfd.memory(fd)
    os.close(fd)
    assert code_of(error) == grpc.StatusCode.INVALID_ARGUMENT


# --- What goes wrong ---


def test_too_many_are_refused_before_any_is_sent(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        for _ in range(17):
            send(fds, b"x")
        with pytest.raises(grpcfd.FdError) as error:
            stub.Exchange(request_of(), metadata=fds.metadata)
    assert code_of(error) == grpc.StatusCode.INVALID_ARGUMENT


def test_limits_are_the_lower_of_both(start_server, stubs):
    server = start_server(max_fds_per_call=2, window=3)
    with grpcfd.insecure_channel(server.target, limits=grpcfd.Limits(window=4)) as channel:
        stub = stubs[1].TestServiceStub(channel)
        with grpcfd.call(channel) as fds:
            for _ in range(3):
                send(fds, b"x")
            with pytest.raises(grpcfd.FdError) as error:
                stub.Exchange(stubs[0].ExchangeRequest(), metadata=fds.metadata)
        assert code_of(error) == grpc.StatusCode.INVALID_ARGUMENT
        # Nobody takes these: the credit for what was closed is what keeps it going.
        for i in range(20):
            with grpcfd.call(channel) as fds:
                send(fds, b"x")
                send(fds, b"y")
                stub.Exchange(stubs[0].ExchangeRequest(command="ignore"), metadata=fds.metadata)


def test_the_window_fills_and_empties(start_server, stubs):
    server = start_server(window=16)
    with grpcfd.insecure_channel(server.target) as channel:
        stub = stubs[1].TestServiceStub(channel)
        started, go = threading.Event(), threading.Event()
        with grpcfd.call(channel) as held:

            def requests():
                started.wait()
                yield stubs[0].ExchangeRequest(command="ignore")
                go.wait()

            urls = [send(held, b"%d" % i) for i in range(16)]
            stream = stub.Chat(requests(), metadata=held.metadata)
            started.set()
            next(stream)
            with grpcfd.call(channel) as fds:
                send(fds, b"no room")
                with pytest.raises(grpcfd.FdError) as error:
                    stub.Exchange(
                        stubs[0].ExchangeRequest(), metadata=fds.metadata, timeout=0.2
                    )
            assert code_of(error) == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert len(urls) == 16
            go.set()
            assert list(stream) == []
        with grpcfd.call(channel) as fds:
            request = stubs[0].ExchangeRequest(urls=[send(fds, b"room")])
            assert stub.Exchange(request, metadata=fds.metadata, timeout=20).payload == b"room"


def test_what_never_comes_is_said_at_once_when_the_call_is_over(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        reply = stub.Exchange(request_of(command="unsent"), metadata=fds.metadata)
        with pytest.raises(grpcfd.FdError) as error:
            fds.take(reply.urls[0], timeout=60)
    assert code_of(error) == grpc.StatusCode.NOT_FOUND


def test_what_never_comes_in_a_stream_ends_with_the_timeout_and_with_the_call(
    channel, stub, request_of
):
    with grpcfd.call(channel) as fds:
        go = threading.Event()

        def requests():
            yield request_of(command="unsent")
            go.wait()

        stream = stub.Chat(requests(), metadata=fds.metadata)
        url = next(stream).urls[0]
        with pytest.raises(grpcfd.FdError) as error:
            fds.take(url, timeout=0.05)
        assert code_of(error) == grpc.StatusCode.DEADLINE_EXCEEDED
        codes = []

        def take():
            try:
                fds.take(url, timeout=60)
            except grpcfd.FdError as error:
                codes.append(error.code())

        threads = [threading.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        go.set()
        for thread in threads:
            thread.join()
        assert codes == [grpc.StatusCode.NOT_FOUND] * 3
        assert list(stream) == []


def test_take_is_once_and_of_this_call(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        reply = stub.Exchange(request_of(number=2), metadata=fds.metadata)
        os.close(fds.take(reply.urls[0]))
        with pytest.raises(grpcfd.FdError) as error:
            fds.take(reply.urls[0])
        assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpcfd.FdError) as error:
            fds.take("inode://1/1?fd=1")
        assert code_of(error) == grpc.StatusCode.INVALID_ARGUMENT
        # Without an index: the lowest of that inode.
        assert content_of(fds.take(reply.urls[1].partition("?")[0])) == b".1"
    with pytest.raises(grpcfd.FdError) as error:
        fds.take(reply.urls[1])
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION


def test_an_rpc_that_fails(channel, stub, request_of):
    with grpcfd.call(channel) as fds, pytest.raises(grpc.RpcError) as error:
        stub.Exchange(
            request_of(urls=[send(fds, b"x")], command="fail", number=3), metadata=fds.metadata
        )
    assert code_of(error) == grpc.StatusCode.ABORTED


def test_an_exception_passes_through_with(channel, stub, request_of):
    class Mine(Exception):
        pass

    with pytest.raises(Mine):
        with grpcfd.call(channel) as fds:
            send(fds, b"queued, never sent")
            raise Mine
    with pytest.raises(Mine):
        with grpcfd.call(channel) as fds:
            send(fds, b"x")
            stub.Exchange(request_of(number=4), metadata=fds.metadata)
            raise Mine
    fds.close()  # Once more does nothing.


def test_closed_exactly_once(channel, stub, request_of, monkeypatch):
    """No number is closed that this package does not own at that moment."""
    real, bad = os.close, []

    def close(fd):
        try:
            real(fd)
        except OSError as error:
            bad.append((fd, error))
            raise

    monkeypatch.setattr(os, "close", close)
    for command in ("", "ignore", "fail"):
        with pytest.raises(RuntimeError):
            with grpcfd.call(channel) as fds:
                url = send(fds, b"x")
                try:
                    reply = stub.Exchange(
                        request_of(urls=[url], number=2, command=command), metadata=fds.metadata
                    )
                    if reply.urls:
                        os.close(fds.take(reply.urls[0]))
                finally:
                    raise RuntimeError
    channel.close()
    assert bad == []


def test_one_block_is_for_one_rpc(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        stub.Exchange(request_of(), metadata=fds.metadata)
        with pytest.raises(grpcfd.FdError) as error:
            stub.Exchange(request_of(), metadata=fds.metadata)
        assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpcfd.FdError) as error:
            send(fds, b"too late")
        assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION


def test_a_call_without_its_metadata(channel, stub, request_of):
    with grpcfd.call(channel) as fds:
        url = send(fds, b"x")
        with pytest.raises(grpc.RpcError) as error:
            stub.Exchange(request_of(urls=[url]))
        assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(grpcfd.FdError) as error:
            fds.take(url)
        assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION


def test_a_channel_without_grpcfd(server, channel, stubs, request_of):
    with grpc.insecure_channel(server.target) as plain, grpcfd.call(channel) as fds:
        url = send(fds, b"x")
        with pytest.raises(grpc.RpcError) as error:
            stubs[1].TestServiceStub(plain).Exchange(
                request_of(urls=[url]), metadata=fds.metadata
            )
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION


def test_intercept_around_a_channel_with_interceptors(server, stubs, request_of):
    seen = []

    class Spy(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation, details, request):
            seen.append([key for key, _ in details.metadata])
            return continuation(details, request)

    inner = grpc.intercept_channel(grpc.insecure_channel(server.target), Spy())
    with grpcfd.intercept(inner, server.target) as channel:
        # And one more outside.
        outer = grpc.intercept_channel(channel, Spy())
        with grpcfd.call(channel) as fds:
            request = request_of(urls=[send(fds, b"x")])
            reply = stubs[1].TestServiceStub(outer).Exchange(request, metadata=fds.metadata)
    assert reply.payload == b"x"
    assert seen == [["grpcfd-bin"], ["grpcfd-bin", "grpcfd-urls"]]


@pytest.mark.parametrize("target", ["localhost:1", "dns:///x", "unix:", "unix://a/b", "ipv4:1"])
def test_targets_without_descriptors(target):
    with pytest.raises(grpcfd.FdError) as error:
        grpcfd.insecure_channel(target)
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION


def test_a_closed_descriptor_is_the_callers_mistake(channel):
    fd = memory_file(b"")
    os.close(fd)
    with grpcfd.call(channel) as fds, pytest.raises(OSError):
        fds.send(fd)


def test_sockets_and_files_have_numbers_of_their_own(channel, stub, request_of):
    one, other = socket.socketpair()
    with one, other, grpcfd.call(channel) as fds:
        fds.send(one)
        stub.Exchange(request_of(command="ignore"), metadata=fds.metadata)
        one.send(b"still open")
        assert other.recv(99) == b"still open"


def test_a_closed_channel(channel):
    channel.close()
    with grpcfd.call(channel) as fds, pytest.raises(grpcfd.FdError) as error:
        send(fds, b"x")
        channel.unary_unary("/x")(b"", metadata=fds.metadata)
    assert code_of(error) == grpc.StatusCode.FAILED_PRECONDITION
