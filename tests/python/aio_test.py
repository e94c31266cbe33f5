# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""grpcfd.aio against C++ servers."""
import asyncio
import os
import subprocess
import sys
import time

import grpc
import grpc.aio
import pytest
from conftest import content_of, memory_file

import grpcfd.aio


@pytest.fixture
def run(server, stubs):
    """Runs a coroutine function with a channel, a stub and the class of requests."""

    def run(test, **options):
        async def body():
            async with grpcfd.aio.insecure_channel(server.target, **options) as channel:
                stub = stubs[1].TestServiceStub(channel)
                await asyncio.wait_for(test(channel, stub, stubs[0].ExchangeRequest), 100)

        asyncio.run(body())

    return run


async def send(fds, content):
    fd = memory_file(content)
    try:
        return await fds.send(fd)
    finally:
        os.close(fd)


def test_unary_both_ways(run):
    async def test(channel, stub, request_of):
        for _ in range(3):
            async with grpcfd.aio.call(channel) as fds:
                urls = [await send(fds, b"%d" % i) for i in range(16)]
                request = request_of(urls=urls, payload=b"reply", number=16)
                reply = await stub.Exchange(request, metadata=fds.metadata, timeout=20)
                assert reply.payload == b"\n".join(b"%d" % i for i in range(16))
                for i in reversed(range(16)):
                    assert content_of(await fds.dup(reply.urls[i])) == b"reply.%d" % i
                    assert content_of(await fds.take(reply.urls[i])) == b"reply.%d" % i
                assert fds._state._ended_well

    run(test)


def test_attach_and_open(run):
    async def test(channel, stub, request_of):
        async with grpcfd.aio.call(channel) as fds:
            fd = memory_file(b"typed")
            message = await fds.attach(fd, label="pool")
            os.close(fd)
            request = request_of(urls=[message.url], number=1)
            metadata = [("key", "value"), *fds.metadata]
            reply = await stub.Exchange(request, metadata=metadata)
            assert reply.payload == b"typed"
            with await fds.open(reply.urls[0]) as file:
                file.seek(0)
                assert file.read() == b".0"

    run(test)


def test_streams(run, server):
    number = 200 if server.style == "sync" else 60

    async def test(channel, stub, request_of):
        async with grpcfd.aio.call(channel) as fds:
            i = 0
            request = request_of(payload=b"d", number=number)
            async for reply in stub.Download(request, metadata=fds.metadata):
                assert content_of(await fds.take(reply.urls[0])) == b"d.%d.0" % i
                i += 1
            assert i == number
        async with grpcfd.aio.call(channel) as fds:

            async def requests():
                for i in range(200):
                    yield request_of(urls=[await send(fds, b"%d" % i)])

            reply = await stub.Upload(requests(), metadata=fds.metadata, timeout=60)
            assert reply.payload == b"\n".join(b"%d" % i for i in range(200))
        async with grpcfd.aio.call(channel) as fds:
            first = await send(fds, b"first")
            stream = stub.Chat(metadata=fds.metadata, timeout=60)
            await stream.write(request_of(urls=[first], payload=b"x", number=2))
            for i in range(50):
                reply = await stream.read()
                for k in (1, 0):
                    os.close(await fds.take(reply.urls[k]))
                url = await send(fds, b"%d" % i)
                await stream.write(request_of(urls=[url], payload=b"x", number=2))
            assert (await stream.read()).payload == b"49"
            await stream.done_writing()
            assert await stream.code() == grpc.StatusCode.OK

    run(test)


def test_tasks_share_the_session(run, server):
    async def test(channel, stub, request_of):
        async def work(name):
            for i in range(20):
                async with grpcfd.aio.call(channel) as fds:
                    mine = b"%d.%d" % (name, i)
                    request = request_of(urls=[await send(fds, mine)], payload=mine, number=3)
                    reply = await stub.Exchange(request, metadata=fds.metadata, timeout=60)
                    assert reply.payload == mine
                    for k, url in enumerate(reply.urls):
                        assert content_of(await fds.take(url)) == mine + b".%d" % k

        await asyncio.gather(*(work(name) for name in range(8)))
        assert server.ask("sessions") == 1

    run(test)


def test_register(run):
    async def test(channel, stub, request_of):
        fd = memory_file(b"pool")
        url = await channel.register(fd)
        os.close(fd)
        for _ in range(2):
            async with grpcfd.aio.call(channel) as fds:
                request = request_of(urls=[url])
                assert (await stub.Exchange(request, metadata=fds.metadata)).payload == b"pool"
        channel.unregister(url)

    run(test)


def test_waits_end_with_the_timeout_and_with_the_call(run):
    async def test(channel, stub, request_of):
        async with grpcfd.aio.call(channel) as fds:
            stream = stub.Chat(metadata=fds.metadata)
            await stream.write(request_of(command="unsent"))
            url = (await stream.read()).urls[0]
            with pytest.raises(grpcfd.FdError) as error:
                await fds.take(url, timeout=0.05)
            assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            tasks = [asyncio.create_task(fds.take(url, timeout=60)) for _ in range(3)]
            await asyncio.sleep(0)
            await stream.done_writing()
            assert await stream.read() is grpc.aio.EOF
            for task in tasks:
                with pytest.raises(grpcfd.FdError) as error:
                    await task
                assert error.value.code() == grpc.StatusCode.NOT_FOUND

    run(test)


def test_a_wait_can_be_cancelled(run):
    async def test(channel, stub, request_of):
        async with grpcfd.aio.call(channel) as fds:
            stream = stub.Chat(metadata=fds.metadata)
            await stream.write(request_of(command="unsent"))
            url = (await stream.read()).urls[0]
            task = asyncio.create_task(fds.take(url, timeout=60))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # Others go on.
            await stream.write(request_of(number=1))
            os.close(await fds.take((await stream.read()).urls[0]))
            stream.cancel()

    run(test)


def test_errors(run):
    async def test(channel, stub, request_of):
        async with grpcfd.aio.call(channel) as fds:
            for _ in range(16):
                await send(fds, b"x")
            with pytest.raises(grpcfd.FdError) as error:
                await send(fds, b"x")
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        async with grpcfd.aio.call(channel) as fds:
            with pytest.raises(grpc.RpcError) as error:
                await stub.Exchange(request_of(command="fail", number=2), metadata=fds.metadata)
            assert error.value.code() == grpc.StatusCode.ABORTED
            assert not fds._state._ended_well
        async with grpcfd.aio.call(channel) as fds:
            await stub.Exchange(request_of(), metadata=fds.metadata)
            with pytest.raises(grpcfd.FdError) as error:
                stub.Exchange(request_of(), metadata=fds.metadata)
            assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        # A call without descriptors is grpc.aio's.
        assert (await stub.Exchange(request_of(command="plain"))).payload == b""

    run(test)


def test_with_interceptors_of_the_program(run):
    seen = []

    class Spy(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation, details, request):
            seen.append(details.method)
            return await continuation(details, request)

    async def test(channel, stub, request_of):
        async with grpcfd.aio.call(channel) as fds:
            request = request_of(urls=[await send(fds, b"x")])
            assert (await stub.Exchange(request, metadata=fds.metadata)).payload == b"x"

    run(test, interceptors=[Spy()])
    assert len(seen) == 1


def test_a_restart(start_server, stubs):
    server = start_server()

    async def test():
        async with grpcfd.aio.insecure_channel(server.target) as channel:
            stub = stubs[1].TestServiceStub(channel)
            for _ in range(3):
                # gRPC may not have noticed yet that its connection has ended.
                for again in range(100):
                    async with grpcfd.aio.call(channel, wait_for_ready=True) as fds:
                        request = stubs[0].ExchangeRequest(urls=[await send(fds, b"x")])
                        try:
                            reply = await stub.Exchange(
                                request, metadata=fds.metadata, timeout=20, wait_for_ready=True
                            )
                            break
                        except grpc.RpcError as error:
                            assert error.code() == grpc.StatusCode.UNAVAILABLE
                assert reply.payload == b"x"
                server.kill()
                server.start()

    asyncio.run(test())


def test_no_thread_and_no_hang_at_exit(server, stubs):
    """A program that ends without closing anything."""
    program = f"""
import asyncio, sys, threading
sys.path[:0] = {sys.path!r}
import grpcfd.aio, test_pb2, test_pb2_grpc

async def main():
    channel = grpcfd.aio.insecure_channel({server.target!r})
    stub = test_pb2_grpc.TestServiceStub(channel)
    before = set(threading.enumerate())
    fds = await grpcfd.aio.call(channel).__aenter__()
    reply = await stub.Exchange(test_pb2.ExchangeRequest(number=2), metadata=fds.metadata)
    await fds.take(reply.urls[0])
    try:
        await fds.take("inode://1/1?fd=9", timeout=0.01)
    except grpcfd.FdError:
        pass
    print([t for t in threading.enumerate() if t not in before and "grpcfd" in repr(t)])

asyncio.run(main())
"""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert time.monotonic() - began < 30
