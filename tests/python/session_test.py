# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""Sessions with servers that do not keep to the protocol, and whose answers are made here."""
import array
import errno
import os
import resource
import signal
import socket
import threading
import time

import grpc
import pytest
from conftest import content_of, memory_file, open_fds

import grpcfd
from grpcfd import _fd_channel, _session, _url, _waiting, _wire


def send_raw(sock, data, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data], rights)


def frames_of(sock):
    """What the client has sent, with the number of descriptors of each frame."""
    found = []
    while True:
        try:
            data, fds, _ = _session.receive(sock, _wire.FRAME_SIZE)
        except BlockingIOError:
            return found
        _waiting.close_all(fds)
        if not data:
            return found
        found.append(_wire.decode_frame(data))


class Pair:
    """A session, and the server's end of it."""

    def __init__(self, limits=grpcfd.Limits(), reply=(16, 64, 16)):
        mine, self.server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.session = _session.Session(mine, _wire.Reply(1, 0, 7, *reply), limits)

    def data(self, fds, call=1, first=0, count=None, attempt=0):
        count = len(fds) if count is None else count
        send_raw(
            self.server,
            _wire.encode_frame(_wire.Frame(_wire.DATA, count, first, call, attempt)),
            fds,
        )

    def take(self, inbox, fd, index, patience=0.0, **kind):
        deadline = time.monotonic() + patience
        steps = self.session.take(inbox, _url.of(fd, index, **kind), deadline, dup=False)
        return _waiting.run(steps)

    def close(self):
        self.session.close()
        self.server.close()


@pytest.fixture
def pair():
    pair = Pair()
    yield pair
    pair.close()


@pytest.fixture
def file():
    fd = memory_file(b"hostile")
    yield fd
    os.close(fd)


# The frames of row 3 of docs/reliability.md, and their kin.
LIES = {
    "17 for 1": (_wire.Frame(_wire.DATA, 1, 0, 1), 17),
    "253 for 1": (_wire.Frame(_wire.DATA, 1, 0, 1), 253),
    "one more": (_wire.Frame(_wire.DATA, 3, 0, 1), 4),
    "one fewer": (_wire.Frame(_wire.DATA, 3, 0, 1), 2),
    "none": (_wire.Frame(_wire.DATA, 3, 0, 1), 0),
    "with a frame of no data": (_wire.Frame(_wire.CREDIT, numbers=(0,)), 3),
    "credit for what was not sent": (_wire.Frame(_wire.CREDIT, numbers=(1,)), 0),
    "no type": (_wire.Frame(0), 0),
    "unknown type": (_wire.Frame(6), 2),
    "index too high": (_wire.Frame(_wire.DATA, 2, 2**32 - 2, 1), 2),
    "attempt without a call": (_wire.Frame(_wire.DATA, 1, 0, 0, 1), 1),
    "too many for the session": (_wire.Frame(_wire.DATA, 17, 0, 0), 17),
    "close without a code": (_wire.Frame(_wire.CLOSE), 0),
}


def expect_cut(pair, inbox, file):
    for index in (0, 9):  # One that did not come, and one that may have.
        with pytest.raises(grpcfd.FdError) as error:
            pair.take(inbox, file, index)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "was cut" in str(error.value)
    close = frames_of(pair.server)[-1]
    assert (close.type, close.code) == (_wire.CLOSE, _wire.PROTOCOL_ERROR)
    assert pair.server.recv(1) == b""


@pytest.mark.parametrize("lie", LIES)
def test_lies_cut_the_session(lie, file):
    frame, count = LIES[lie]
    before = open_fds()
    for _ in range(50):
        pair = Pair()
        inbox = pair.session.begin(1)
        # Good ones before it go down with it.
        pair.data([file, file], first=9)
        send_raw(pair.server, _wire.encode_frame(frame), [file] * count)
        expect_cut(pair, inbox, file)
        pair.close()
    assert open_fds() == before


@pytest.mark.parametrize("size", [1, 8, 63, 65, 4096])
def test_sizes_cut_the_session(pair, file, size):
    inbox = pair.session.begin(1)
    data = _wire.encode_frame(_wire.Frame(_wire.DATA, 2, 0, 1)).ljust(size, b"\0")[:size]
    send_raw(pair.server, data, [file] * 2)
    expect_cut(pair, inbox, file)


def test_an_index_that_comes_twice(pair, file):
    inbox = pair.session.begin(1)
    pair.data([file] * 2)
    os.close(pair.take(inbox, file, 1))
    pair.data([file], first=1)
    with pytest.raises(grpcfd.FdError):
        os.close(pair.take(inbox, file, 5))
    assert pair.session.error() is not None


def test_a_session_scoped_index_that_comes_twice(pair, file):
    inbox = pair.session.begin(1)
    pair.data([file], call=0)
    os.close(pair.take(inbox, file, 0, scoped=True))
    pair.data([file], call=0)
    expect_cut(pair, inbox, file)


def test_descriptors_of_other_calls_are_closed(pair, file):
    """Of calls that have ended, that never were, and of attempts that this client does not make."""
    inbox = pair.session.begin(1)
    before = open_fds()
    for _ in range(3):
        pair.data([file] * 16, call=99)
        pair.data([file] * 16, attempt=3)
        assert pair.session.error() is None
        assert open_fds() == before
    # They were disposed of: the server is told so.
    assert frames_of(pair.server)[-1].numbers[0] == 96
    pair.data([file])
    assert content_of(pair.take(inbox, file, 0)) == b"hostile"


def test_more_than_the_window_is_not_held(file):
    pair = Pair(grpcfd.Limits(max_fds_per_call=16, window=20))
    inboxes = [pair.session.begin(call) for call in (1, 2)]
    for call in (1, 2):
        pair.data([file] * 16, call=call)
    with pytest.raises(grpcfd.FdError) as error:
        pair.take(inboxes[1], file, 0)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert content_of(pair.take(inboxes[0], file, 15)) == b"hostile"
    pair.close()


def test_more_at_once_than_a_call_may_have(pair, file):
    inbox = pair.session.begin(1)
    pair.data([file] * 17)
    with pytest.raises(grpcfd.FdError) as error:
        pair.take(inbox, file, 0)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert pair.session.error() is None


def test_no_room_in_this_process(pair, file):
    inbox = pair.session.begin(1)
    pair.data([file] * 8)
    pair.data([file] * 8, call=0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = open_fds()
    free = [number for number in range(len(taken) + 4) if number not in taken]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[3], hard))
    try:
        for kind in ({}, {"scoped": True}):
            with pytest.raises(grpcfd.FdError) as error:
                pair.take(inbox, file, 0, **kind)
            assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # That call alone has failed.
    other = pair.session.begin(2)
    pair.data([file], call=2)
    assert content_of(pair.take(other, file, 0)) == b"hostile"


def test_holes_and_any_order(pair, file):
    inbox = pair.session.begin(1)
    pair.data([file], first=7)
    pair.data([file], first=2)
    pair.data([file], first=2**32 - 2)
    for index in (2**32 - 2, 2, 7):
        assert content_of(pair.take(inbox, file, index)) == b"hostile"


def test_what_came_before_the_end_can_be_taken(pair, file):
    inbox = pair.session.begin(1)
    pair.data([file])
    pair.server.close()
    assert pair.session.error() is not None
    assert content_of(pair.take(inbox, file, 0)) == b"hostile"
    with pytest.raises(grpcfd.FdError) as error:
        pair.take(inbox, file, 1)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_close_of_the_server_says_why(pair, file):
    inbox = pair.session.begin(1)
    frame = _wire.Frame(_wire.CLOSE, code=_wire.SHUTDOWN, text="gone fishing")
    send_raw(pair.server, _wire.encode_frame(frame))
    with pytest.raises(grpcfd.FdError, match="gone fishing") as error:
        pair.take(inbox, file, 0)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


def test_withdraw(pair, file):
    inbox = pair.session.begin(1)
    pair.data([file] * 3, call=0)
    os.close(pair.take(inbox, file, 1, scoped=True))
    frame = _wire.Frame(_wire.WITHDRAW, numbers=(1, 9))
    send_raw(pair.server, _wire.encode_frame(frame))
    with pytest.raises(grpcfd.FdError) as error:
        pair.take(inbox, file, 1, scoped=True)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    os.close(pair.take(inbox, file, 2, scoped=True))


def test_credit_comes_in_time(pair, file):
    """Each quarter of the window, and soon enough for a full call."""
    inbox = pair.session.begin(1)
    for index in range(64):
        pair.data([file], first=index)
        os.close(pair.take(inbox, file, index))
    totals = [frame.numbers[0] for frame in frames_of(pair.server)]
    assert totals == [16, 32, 48, 64]
    narrow = Pair(reply=(16, 17, 16))
    inbox = narrow.session.begin(1)
    for index in range(4):
        narrow.data([file], first=index)
        os.close(narrow.take(inbox, file, index))
    assert [frame.numbers[0] for frame in frames_of(narrow.server)] == [2, 4]
    narrow.close()


def test_a_call_waits_for_credit(pair, file):
    fds = [file] * 16
    for call in range(4):
        _waiting.run(pair.session.send(call + 1, 0, fds, time.monotonic()))
    assert sum(frame.fd_count for frame in frames_of(pair.server)) == 64

    with pytest.raises(grpcfd.FdError) as error:
        _waiting.run(pair.session.send(5, 0, [file], time.monotonic() + 0.01))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert frames_of(pair.server) == []

    def give():
        send_raw(pair.server, _wire.encode_frame(_wire.Frame(_wire.CREDIT, numbers=(1,))))

    thread = threading.Timer(0.01, give)
    thread.start()
    _waiting.run(pair.session.send(5, 0, [file], time.monotonic() + 60))
    thread.join()
    assert [frame.fd_count for frame in frames_of(pair.server)] == [1]
    # A total that shrinks is ignored.
    send_raw(pair.server, _wire.encode_frame(_wire.Frame(_wire.CREDIT, numbers=(0,))))
    with pytest.raises(grpcfd.FdError):
        _waiting.run(pair.session.send(5, 1, [file], time.monotonic()))
    assert pair.session.error() is None


def test_discard_of_calls_that_ended(pair, file):
    """Told when the window is short, and at once if the RPC did not end well."""
    for call in range(1, 8):
        inbox = pair.session.begin(call)
        _waiting.run(pair.session.send(call, 0, [file] * 8, time.monotonic()))
        pair.session.end(call, inbox, sent=True, tell=call == 1)
    ids = [frame.numbers for frame in frames_of(pair.server) if frame.type == _wire.DISCARD]
    assert ids == [(1,)]
    with pytest.raises(grpcfd.FdError):
        _waiting.run(pair.session.send(8, 0, [file] * 16, time.monotonic()))
    ids = [frame.numbers for frame in frames_of(pair.server) if frame.type == _wire.DISCARD]
    assert ids == [(2, 3, 4, 5, 6), (7,)]


def test_many_in_one_call_go_in_frames_of_253(file):
    pair = Pair(grpcfd.Limits(600, 600), (600, 600, 0))
    _waiting.run(pair.session.send(1, 0, [file] * 600, time.monotonic()))
    frames = frames_of(pair.server)
    assert [(f.first_index, f.fd_count) for f in frames] == [(0, 253), (253, 253), (506, 94)]
    pair.close()


def test_threads_that_wait_get_each_their_own(pair, file):
    """One polls for all, and leaves when it has what it came for."""
    inboxes = {call: pair.session.begin(call) for call in range(1, 9)}
    results = {}

    def work(call):
        results[call] = os.pread(self_closing(pair.take(inboxes[call], files[call], 0, 60)), 9, 0)

    taken = []

    def self_closing(fd):
        taken.append(fd)
        return fd

    files = {call: memory_file(b"%d" % call) for call in inboxes}
    threads = [threading.Thread(target=work, args=(call,)) for call in inboxes]
    for thread in threads:
        thread.start()
    for call, fd in files.items():
        pair.data([fd], call=call)
    for thread in threads:
        thread.join()
    assert results == {call: b"%d" % call for call in inboxes}
    _waiting.close_all(taken + list(files.values()))


def test_close_releases_who_waits(pair, file):
    inbox = pair.session.begin(1)
    errors = []

    def work():
        try:
            pair.take(inbox, file, 0, 60)
        except grpcfd.FdError as error:
            errors.append(error.code())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    pair.session.close()
    for thread in threads:
        thread.join()
    assert errors == [grpc.StatusCode.FAILED_PRECONDITION] * 4


def test_a_signal_that_raises_leaves_a_wait(pair, file):
    """As Ctrl-C does: the session goes on, also for another thread that waits."""

    class Interrupted(Exception):
        pass

    def handler(number, frame):
        raise Interrupted

    inboxes = [pair.session.begin(call) for call in (1, 2)]
    taken = []
    thread = threading.Thread(target=lambda: taken.append(pair.take(inboxes[1], file, 0, 60)))
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            thread.start()
            pair.take(inboxes[0], file, 0, 60)
    finally:
        signal.signal(signal.SIGALRM, old)
    pair.data([file], call=2)
    thread.join()
    assert content_of(taken.pop()) == b"hostile"
    pair.data([file], call=1)
    assert content_of(pair.take(inboxes[0], file, 0, 60)) == b"hostile"


# --- The hello ---


class Answerer:
    """A server that gives each connection the next of its answers."""

    def __init__(self, path, answers):
        self.hellos = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, args=(answers,))
        self._thread.start()

    def _run(self, answers):
        for answer in answers:
            connection, _ = self._listener.accept()
            with connection:
                self.hellos.append(connection.recv(64))
                for data, fds in answer:
                    send_raw(connection, data, fds)
        self._listener.close()

    def join(self):
        self._thread.join()


def reply_of(status=0, version=1, session_id=7, size=64, limits=(16, 64, 16)):
    return _wire._REPLY.pack(
        _wire.REPLY_MAGIC, size, version, status, 0, session_id, *limits, bytes(28)
    )


def refusal(status, version=1):
    return reply_of(status, version, 0, limits=(0, 0, 0))


def hello(path, answers, timeout=5.0):
    """What a channel makes of these answers."""
    server = Answerer(path, answers)
    channel = _fd_channel.FdChannel(f"unix:{path}")
    try:
        return _waiting.run(channel.session(time.monotonic() + timeout, False)).id
    except grpcfd.FdError as error:
        return error.code()
    finally:
        channel.close()
        server.join()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "s")


@pytest.fixture
def session_end():
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends[0].fileno()
    for end in ends:
        end.close()


def test_a_good_reply_even_in_pieces(path, session_end):
    data = reply_of()
    assert hello(path, [[(data, [session_end])]]) == 7
    os.unlink(path)
    assert hello(path, [[(data[:1], [session_end]), (data[1:33], []), (data[33:], [])]]) == 7


REFUSALS = {
    1: grpc.StatusCode.FAILED_PRECONDITION,
    3: grpc.StatusCode.RESOURCE_EXHAUSTED,
    4: grpc.StatusCode.PERMISSION_DENIED,
    5: grpc.StatusCode.INTERNAL,
    6: grpc.StatusCode.UNAVAILABLE,
    7: grpc.StatusCode.RESOURCE_EXHAUSTED,
    99: grpc.StatusCode.INTERNAL,
}


@pytest.mark.parametrize("status", REFUSALS)
def test_refusals(path, status):
    assert hello(path, [[(refusal(status), [])]]) == REFUSALS[status]


def test_a_token_in_use_is_tried_again(path, session_end):
    busy = [(refusal(_wire.TOKEN_IN_USE), [])]
    assert hello(path, [busy, busy, [(reply_of(), [session_end])]]) == 7


def test_version_skew(path, session_end):
    """A server that speaks more is asked for what this client speaks; one that answers with what
    it was not asked for is not believed."""
    newer = [(refusal(_wire.UNSUPPORTED_VERSION, version=9), [])]
    assert hello(path, [newer]) == grpc.StatusCode.FAILED_PRECONDITION
    os.unlink(path)
    wrong = [(reply_of(version=9), [session_end])]
    assert hello(path, [wrong]) == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [
        reply_of(size=63),
        reply_of(version=0),
        reply_of(session_id=0),
        reply_of(limits=(0, 64, 16)),
        reply_of(limits=(16, 0, 16)),
        reply_of()[:-1] + b"\1",
        reply_of(status=3),
    ],
    ids=["size", "version", "session_id", "max_fds_per_call", "window", "reserved", "status"],
)
def test_malformed_replies(path, session_end, answer):
    assert hello(path, [[(answer, [session_end])]]) == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("count", [0, 2, 253])
def test_replies_with_another_number_of_descriptors(path, session_end, count):
    assert hello(path, [[(reply_of(), [session_end] * count)]]) == grpc.StatusCode.UNAVAILABLE


def test_a_reply_with_a_file_or_another_socket(path, file):
    assert hello(path, [[(reply_of(), [file])]]) == grpc.StatusCode.UNAVAILABLE
    os.unlink(path)
    with socket.socket(socket.AF_UNIX) as other:
        answer = [(reply_of(), [other.fileno()])]
        assert hello(path, [answer]) == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n" * 9, b"\x8f" * 64],
    ids=["text", "magic"],
)
def test_a_server_without_an_fdchannel(path, answer):
    assert hello(path, [[(answer, [])]]) == grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize("size", [0, 1, 8, 63])
def test_a_server_that_ends_during_the_hello(path, size):
    """As one that is killed: not a server without an fdchannel."""
    said = [(reply_of()[:size], [])] if size else []
    assert hello(path, [said]) == grpc.StatusCode.UNAVAILABLE


def test_a_server_that_does_not_answer(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        limits = grpcfd.Limits(connect_timeout=0.05)
        channel = _fd_channel.FdChannel(f"unix:{path}", limits)
        with pytest.raises(grpcfd.FdError) as error:
            _waiting.run(channel.session(time.monotonic() + 60, False))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpcfd.FdError) as error:
            _waiting.run(channel.session(time.monotonic() + 0.02, False))
        assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        channel.close()


def test_a_full_backlog_is_waited_for(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        crowd = []
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            crowd.append(client)
            if client.connect_ex(path) == errno.EAGAIN:
                break
        channel = _fd_channel.FdChannel(f"unix:{path}", grpcfd.Limits(connect_timeout=0.05))
        with pytest.raises(grpcfd.FdError) as error:
            _waiting.run(channel.session(None, False))
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        for client in crowd:
            client.close()
        channel.close()


def test_no_server(path):
    channel = _fd_channel.FdChannel(f"unix:{path}")
    with pytest.raises(grpcfd.FdError) as error:
        _waiting.run(channel.session(None, False))
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    with pytest.raises(grpcfd.FdError) as error:
        _waiting.run(channel.session(time.monotonic() + 0.1, True))
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    channel.close()


def test_the_rpcs_live_on_when_a_session_is_cut(path, file, stubs, start_server):
    """The sessions come from a server that lies, the RPCs from one that does not."""
    server = start_server()
    ends = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    liar = Answerer(path, [[(reply_of(session_id=k + 1), [ends[k][0].fileno()])] for k in (0, 1)])
    with grpcfd.intercept(grpc.insecure_channel(server.target), f"unix:{path}") as channel:
        stub, request_of = stubs[1].TestServiceStub(channel), stubs[0].ExchangeRequest
        for k in (0, 1):
            with grpcfd.call(channel) as fds:
                fds.send(file)
                stub.Exchange(request_of(command="plain"), metadata=fds.metadata)
                lie = _wire.encode_frame(_wire.Frame(_wire.DATA, 1, 0, 1))
                send_raw(ends[k][1], lie, [file] * 17)
                with pytest.raises(grpcfd.FdError, match="was cut"):
                    fds.take(str(_url.of(file, 0)))
            stub.Exchange(request_of(command="plain"))
    liar.join()
    for pair_of_ends in ends:
        for end in pair_of_ends:
            end.close()
