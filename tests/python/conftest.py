# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""What the tests of the package share: C++ servers, stubs, and a look at what is left open."""
import gc
import os
import pathlib
import subprocess
import sys
import time

import pytest

SOURCE = pathlib.Path(os.environ["GRPCFD_SOURCE_DIR"])
SERVER = os.environ["GRPCFD_PYTHON_TEST_SERVER"]


def generate(folder):
    """test_pb2 and test_pb2_grpc of tests/proto/test.proto."""
    subprocess.run(
        [
            os.environ["GRPCFD_PROTOC"],
            f"--proto_path={SOURCE / 'tests/proto'}",
            f"--python_out={folder}",
            f"--grpc_out={folder}",
            f"--plugin=protoc-gen-grpc={os.environ['GRPCFD_PYTHON_PLUGIN']}",
            "test.proto",
        ],
        check=True,
    )


@pytest.fixture(scope="session")
def stubs(tmp_path_factory):
    """The generated modules: (test_pb2, test_pb2_grpc)."""
    folder = tmp_path_factory.mktemp("stubs")
    generate(folder)
    sys.path.insert(0, str(folder))
    import test_pb2
    import test_pb2_grpc

    return test_pb2, test_pb2_grpc


class Server:
    """One run of test_server. It can be killed, and started again on the same path."""

    def __init__(self, path, style="sync", **limits):
        self.path = path
        self.style = style
        self.target = f"unix:{path}"
        self._command = [SERVER, style, self.target]
        self._command += [f"{name}={value}" for name, value in limits.items()]
        self._pass_fds = (limits["listen_fd"],) if "listen_fd" in limits else ()
        self._process = None
        self.start()

    def start(self):
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=self._pass_fds,
        )
        assert self._process.stdout.readline() == "READY\n"

    def ask(self, what):
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def _reap(self):
        self._process.stdout.close()
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        self._process.wait()

    def kill(self):
        self._process.kill()
        self._reap()

    def drain(self):
        """Has it end in good order, and does not wait for that."""
        self._process.stdin.close()

    def runs(self):
        return self._process.poll() is None

    def stop(self):
        """In good order."""
        if self._process.poll() is None:
            self._process.stdin.close()
            assert self._process.wait() == 0
        self._reap()


@pytest.fixture
def start_server(tmp_path):
    """Starts servers, which end with the test."""
    servers = []

    def start(style="sync", path=None, **limits):
        path = path or str(tmp_path / f"s{len(servers)}")
        servers.append(Server(path, style, **limits))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(params=["sync", "callback"])
def server(request, start_server):
    return start_server(request.param)


def memory_file(content):
    fd = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(fd, content)
    return fd


def content_of(fd):
    """Of a descriptor, which is closed."""
    try:
        return os.pread(fd, 4096, 0)
    finally:
        os.close(fd)


def open_fds():
    """What this process has open: {number: what readlink(2) says}."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # The one that reads the folder.
    return found


def eventually(condition, patience=20.0):
    """Asks again until it holds, for what another thread or process does in its own time."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def is_grpcs(name):
    # gRPC opens some of these at first use and keeps them.
    return name.startswith("anon_inode:") or name.startswith("pipe:")


def leaked(before):
    """What is open now and was not before."""
    return {k: v for k, v in open_fds().items() if before.get(k) != v and not is_grpcs(v)}


@pytest.fixture(autouse=True)
def leak_check():
    """Each test leaves the process as it found it."""
    before = open_fds()
    yield
    if leaked(before):
        gc.collect()  # Of exceptions whose frames hold objects.
    # gRPC closes in threads of its own.
    assert eventually(lambda: not leaked(before)), leaked(before)
