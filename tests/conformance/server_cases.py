# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The cases for servers: the runner plays the client. CASES has them by number."""
import os
import secrets
import socket

import peer
from client_cases import lies, settle
from peer import check

CASES = {}


def case(number, section):
    """`section` is the heading of PROTOCOL.md that asks for it."""
    def add(function):
        check(number not in CASES, f"{number} is there twice")
        CASES[number] = (section, function.__doc__, function)
        return function
    return add


class Client:
    """The client that connects to the program."""

    def __init__(self, program, folder):
        self.program = program
        self.path = os.path.join(folder, "s")

    def listen(self, limits=(16, 64, 16)):
        self.program.ask("listen", self.path, *limits)

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.path)
        return connection

    def answer(self, connection):
        """The reply: its fields, and the descriptors. None if the connection is cut instead."""
        data, fds = b"", []
        with connection:
            while len(data) < 64:
                got = peer.receive(connection, 64 - len(data))
                check(got is not None, "the server does not answer")
                data, fds = data + got[0], fds + got[1]
                if not got[0]:
                    check(not data and not fds, "an answer that is no reply")
                    return None
            rest = peer.receive(connection, 1)
            check(rest == (b"", []), "the server did not close the connection")
        magic, size, version, status, flags, session_id, *limits, zeros = peer.REPLY.unpack(data)
        check((magic, size, flags) == (peer.REPLY_MAGIC, 64, 0) and not any(zeros) and version,
              f"a malformed reply: {data.hex()}")
        if status == peer.OK:
            check(len(fds) == 1 and session_id and all(limits[:2]),
                  f"a bad reply with {len(fds)} descriptors: {data.hex()}")
        else:
            check(not fds and not session_id and not any(limits), f"a bad reply: {data.hex()}")
        return version, status, session_id, tuple(limits), fds

    def hello(self, data):
        connection = self.connect()
        peer.send(connection, data)
        return self.answer(connection)

    def session(self, limits=(16, 64, 16), token=None, version=1):
        token = token or secrets.token_bytes(16)
        chosen, status, session_id, theirs, fds = self.hello(
            peer.hello(token, versions=(1, version), limits=limits))
        check((chosen, status) == (version, peer.OK), f"version {chosen}, status {status}")
        return self.wrap(token, session_id, theirs, fds)

    @staticmethod
    def wrap(token, session_id, limits, fds):
        sock = socket.socket(fileno=fds[0])
        check(sock.type == socket.SOCK_SEQPACKET, "not a SOCK_SEQPACKET socket")
        sock.setblocking(True)
        return peer.Session(sock, session_id, token, limits)

    def send(self, session, contents, call=1, first=0, scoped=False, attempt=0):
        """Sends files for a call: their URLs."""
        fds = [peer.file_of(content) for content in contents]
        session.send(peer.data(len(fds), first, 0 if scoped else call, attempt), fds)
        urls = [peer.url_of(fd, first + k, scoped) for k, fd in enumerate(fds)]
        for fd in fds:
            os.close(fd)
        return urls

    def serve(self, session, call=1, count=0, **other):
        entry = peer.metadata(session.token, session.id, call, count, **other)
        return self.program.ask("serve", call, entry.hex())

    def take(self, call, urls, contents):
        for url, content in zip(urls, contents):
            check(self.program.ask("take", call, url) == content, "another content")

    def close(self):
        pass


@case("S1", "HelloReply")
def hello(client):
    """A hello is answered with the limits of the server and one SOCK_SEQPACKET socket"""
    client.listen((5, 17, 3))
    ids = set()
    for _ in range(3):
        session = client.session()
        check(session.limits == (5, 17, 3), f"limits {session.limits}")
        ids.add(session.id)
    check(len(ids) == 3, "a session id was given twice")


@case("S2", "Hello")
def hello_in_pieces(client):
    """A hello may come in pieces"""
    client.listen()
    data = peer.hello(secrets.token_bytes(16))
    for cut in (1, 7, 8, 9, 63):
        connection = client.connect()
        peer.send(connection, data[:cut])
        peer.send(connection, data[cut:])
        answer = client.answer(connection)
        check(answer and answer[1] == peer.OK, f"cut at {cut}: {answer}")
        client.wrap(b"", answer[2], answer[3], answer[4]).end()
        data = peer.hello(secrets.token_bytes(16))


@case("S3", "Version negotiation")
def versions(client):
    """The highest version in both ranges, or UNSUPPORTED_VERSION with the server's highest"""
    client.listen()
    answer = client.hello(peer.hello(secrets.token_bytes(16), versions=(1, 1)))
    check(answer[:2] == (1, peer.OK), f"{answer}")
    os.close(answer[4][0])
    answer = client.hello(peer.hello(secrets.token_bytes(16), versions=(60000, 60001)))
    check(answer[1] == peer.UNSUPPORTED_VERSION and 1 <= answer[0] < 60000, f"{answer}")


@case("S4", "Hello")
def malformed_hellos(client):
    """A malformed hello gets MALFORMED, or nothing; never a session"""
    client.listen()
    token = secrets.token_bytes(16)
    for bad in (
        peer.hello(token, size=63), peer.hello(token, flags=1), peer.hello(bytes(16)),
        peer.hello(token, versions=(0, 1)), peer.hello(token, versions=(2, 1)),
        peer.hello(token, limits=(0, 64, 16)), peer.hello(token, limits=(16, 0, 16)),
        peer.hello(token, reserved=bytes(19) + b"\1"),
    ):
        answer = client.hello(bad)
        check(answer is None or answer[1] == peer.MALFORMED, f"{bad.hex()}: {answer}")
    client.session()


@case("S5", "Token")
def token(client):
    """A second hello with a token is refused while its session lives, and not after"""
    client.listen()
    session = client.session()
    other = client.hello(peer.hello(session.token))
    check(other[1] == peer.TOKEN_IN_USE, f"{other}")
    session.end()
    for _ in range(2000):
        other = client.hello(peer.hello(session.token))
        if other[1] == peer.OK:
            client.wrap(session.token, *other[2:])
            return
    raise peer.Failed("the token is still in use after its session has ended")


@case("S6", "Hello")
def descriptors_on_a_hello(client):
    """Descriptors that ride on a hello are closed, if the kernel lets them through at all"""
    client.listen()
    client.session().end()
    reader, writer = os.pipe()
    connection = client.connect()
    try:
        peer.send(connection, peer.hello(secrets.token_bytes(16)), [writer] * 3)
        client.answer(connection)
    except PermissionError:
        pass  # SO_PASSRIGHTS.
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        check(pipe.read() == b"", "somebody writes")  # Blocks while the server holds one.


@case("S7", "Order and numbers")
def calls(client):
    """Descriptors that came before the call are the call's, by index"""
    client.listen()
    session = client.session()
    for call in range(1, 6):
        urls = client.send(session, [f"{call}.{k}" for k in range(3)], call, 0)
        urls += client.send(session, [f"{call}.3"], call, 3)
        client.serve(session, call, 4)
        client.take(call, reversed(urls), [f"{call}.{k}" for k in (3, 2, 1, 0)])
        client.program.fails("take", call, urls[0])
        client.program.fails("take", call, peer.url_of(0, 4))
        client.program.ask("end", call)


@case("S8", "`grpcfd-bin`")
def holes(client):
    """What a forwarder left out is NOT_FOUND, and the rest is there"""
    client.listen()
    session = client.session()
    urls = client.send(session, ["one"], 1, 1) + client.send(session, ["three"], 1, 3)
    client.serve(session, 1, 4, holes=2)
    client.program.fails("take", 1, peer.url_of(0, 2), code="NOT_FOUND")
    client.take(1, urls, ["one", "three"])


@case("S9", "`grpcfd-bin`")
def other_sessions(client):
    """Another session's id, another token, or an ended session: UNAVAILABLE, at once"""
    client.listen()
    session, other = client.session(), client.session()
    client.send(session, ["x"], 1)
    for token, session_id in ((session.token, other.id), (other.token, session.id),
                              (secrets.token_bytes(16), session.id), (session.token, 999999)):
        entry = peer.metadata(token, session_id, 1, 1)
        client.program.fails("serve", 1, entry.hex(), code="UNAVAILABLE")


@case("S10", "`grpcfd-bin`")
def malformed_entries(client):
    """A malformed entry is INVALID_ARGUMENT"""
    client.listen()
    session = client.session()
    good = peer.metadata(session.token, session.id, 1, 2, 1)
    bad = [good[:47], good + b"\0", b""]
    bad += [peer.metadata(session.token, session.id, 0, 1),
            peer.metadata(session.token, 0, 1, 1),
            peer.metadata(session.token, session.id, 1, 2, holes=2),
            peer.metadata(session.token, session.id, 1, version=2),
            peer.metadata(bytes(16), 0, 1), peer.metadata(bytes(16), session.id, 0)]
    bad += [good[:k] + b"\1" + good[k + 1:] for k in (1, 2, 3)]
    for entry in bad:
        client.program.fails("serve", 1, entry.hex() or "-", code="INVALID_ARGUMENT")
    # Not bound to a session.
    unbound = peer.metadata(bytes(16), 0, 0)
    client.program.fails("serve", 1, unbound.hex(), code="FAILED_PRECONDITION")


@case("S11", "`grpcfd-bin`")
def replies(client):
    """What the server sends has the call's id and attempt, and indices from 0"""
    client.listen()
    session = client.session()
    for call, attempt in ((5, 0), (6, 2)):
        client.serve(session, call, attempt=attempt)
        for index in range(3):
            url = client.program.ask("attach", call, f"reply{index}")
            one = session.frame(peer.DATA)
            check((one.call, one.attempt, one.first) == (call, attempt, index), "a wrong frame")
            check(one.contents() == [f"reply{index}"], "another content")
            check(url == peer.url_of(one.fds[0], index), f"another URL: {url}")


@case("S12", "Order and numbers")
def more_in_a_stream(client):
    """A call may bring more after its metadata"""
    client.listen()
    session = client.session()
    client.serve(session, 1)
    for index in range(3):
        urls = client.send(session, [f"{index}"], 1, index)
        client.take(1, urls, [f"{index}"])


@case("S13", "Window")
def window(client):
    """The server keeps the client's window, and goes on with CREDIT"""
    client.listen()
    session = client.session(limits=(4, 4, 0))
    client.serve(session, 1)
    for index in range(4):
        client.program.ask("attach", 1, "x")
    client.program.say("attach", 1, "last")
    for _ in range(4):
        session.frame(peer.DATA)
    check(session.next(peer.DATA, patience=0.2) is None, "more than the window was sent")
    session.send(peer.credit(1))
    check(session.frame(peer.DATA).contents() == ["last"], "another content")
    client.program.answer()


@case("S14", "CREDIT")
def credit(client):
    """The server says what it has disposed of: taken, or closed with the call"""
    client.listen((4, 8, 0))
    session = client.session()
    urls = client.send(session, ["a", "b", "c", "d"], 1)
    client.serve(session, 1, 4)
    client.take(1, urls[:2], "ab")
    total = 0
    while total < 2:
        total = session.frame(peer.CREDIT).total
    check(total == 2, f"credit for {total} after 2 were taken")
    client.program.ask("end", 1)
    while total < 4:
        total = session.frame(peer.CREDIT).total
    check(total == 4, f"credit for {total} of 4")


@case("S15", "DISCARD")
def discard(client):
    """What waits for a call that the client has ended is closed"""
    client.listen((4, 8, 0))
    session = client.session()
    reader, writer = os.pipe()
    session.send(peer.data(1, 0, 1), [writer])
    session.send(peer.data(1, 0, 2), [writer])
    os.close(writer)
    session.send(peer.discard(1, 2, 777))
    client.serve(session, 3)  # It reads the socket when somebody asks.
    client.program.fails("take", 3, peer.url_of(0, 0))
    with os.fdopen(reader, "rb") as pipe:
        check(pipe.read() == b"", "somebody writes")


@case("S16", "Errors")
def protocol_errors(client):
    """Each protocol error cuts the session with CLOSE, closes what came in it, and no other"""
    client.listen()
    bystander = client.session()
    client.serve(bystander, 9999)
    for what, data, count in lies(1):
        try:
            session = client.session()
            reader, writer = os.pipe()
            session.send(peer.data(2, 100, 1), [writer, writer])
            session.send(data, [writer] * count)
            os.close(writer)
            client.serve(session, 1)
            client.program.fails("take", 1, peer.url_of(0, 0))
            if "CLOSE" not in what or "without" in what or "line" in what:
                session.expect_cut()
            with os.fdopen(reader, "rb") as pipe:
                check(pipe.read() == b"", "somebody writes")
            client.program.ask("end", 1)
        except (peer.Failed, peer.Error, OSError) as error:
            raise peer.Failed(f"{what}: {error}") from error
    client.take(9999, client.send(bystander, ["fine"], 9999), ["fine"])


@case("S17", "Errors")
def twice(client):
    """An index that a call has had is a protocol error; in another attempt it is not"""
    client.listen()
    session = client.session()
    client.send(session, ["a"], 1)
    urls = client.send(session, ["b"], 1, attempt=1)
    entry = peer.metadata(session.token, session.id, 1, 1, attempt=1)
    client.program.ask("serve", 1, entry.hex())
    client.take(1, urls, ["b"])
    client.send(session, ["c"], 1, attempt=1)
    client.program.fails("take", 1, peer.url_of(0, 1))
    session.expect_cut()


@case("S18", "Session-scoped descriptors")
def scoped(client):
    """A descriptor of the session: a duplicate for each request of any call, until WITHDRAW"""
    client.listen((4, 8, 4))
    session = client.session()
    urls = client.send(session, ["a", "b", "c"], first=7, scoped=True)
    for call in (1, 2):
        client.serve(session, call)
        client.take(call, [urls[2], urls[0], urls[2]], ["c", "a", "c"])
    check(session.frame(peer.CREDIT).total == 3, "they were not counted as disposed")
    session.send(peer.withdraw(7, 12345))
    client.program.fails("take", 2, urls[0], code="NOT_FOUND")
    client.take(2, urls[1:2], ["b"])
    client.program.fails("take", 2, peer.url_of(0, 99, scoped=True), code="NOT_FOUND")


@case("S19", "CLOSE")
def close(client):
    """CLOSE ends the session; its calls are UNAVAILABLE"""
    client.listen()
    for code in (1, 3, 99):
        session = client.session()
        client.serve(session, 1)
        session.send(peer.close(code, b"bye"))
        client.program.fails("take", 1, peer.url_of(0, 0), code="UNAVAILABLE")
        client.program.ask("end", 1)


@case("S20", "The session socket")
def drain(client):
    """A client that sends, calls and goes: its call has what was sent"""
    client.listen()
    session = client.session()
    urls = client.send(session, ["a", "b"], 1)
    session.end()
    client.serve(session, 1, 2)
    client.take(1, urls, "ab")


@case("S21", "Descriptors and calls")
def end_of_call(client):
    """When a call ends, what was not taken is closed"""
    client.listen()
    session = client.session()
    client.serve(session, 1)
    before = int(client.program.ask("fds"))
    for call in range(2, 8):
        urls = client.send(session, ["a", "b", "c"], call)
        client.serve(session, call, 3)
        client.take(call, urls[1:2], "b")
        client.program.ask("end", call)
        settle(client, before)


@case("S22", "CLOSE")
def shutdown(client):
    """A server that shuts down says so to its sessions, and to whoever says hello"""
    client.listen()
    session = client.session()
    client.program.ask("shutdown")
    session.expect_cut(code=3)


@case("S23", "Connection")
def connections(client):
    """A hello for a connection that the process has not got is answered ELSEWHERE"""
    client.listen()
    name, token = secrets.token_bytes(16), secrets.token_bytes(16)
    answer = client.hello(peer.hello(token, versions=(1, 2), connection=name))
    check(answer and answer[:2] == (2, peer.ELSEWHERE), f"{answer}")
    # Version 1 knows no names.
    answer = client.hello(peer.hello(token, versions=(1, 1), connection=name))
    check(answer and answer[1] == peer.MALFORMED, f"{answer}")
    # Nothing of that keeps the token.
    client.session(token=token, version=2).end()


@case("S24", "LANDED")
def landed(client):
    """The server says soon which calls with descriptors it has; not to a client of version 1"""
    client.listen()
    session = client.session(version=2)
    urls = client.send(session, ["a"], 7)
    client.serve(session, 7, 1)
    check(session.frame(peer.LANDED).numbers(8) == (7,), "another call has landed")
    client.take(7, urls, "a")
    old = client.session()
    urls = client.send(old, ["b"], 8)
    client.serve(old, 8, 1)
    client.take(8, urls, "b")
    client.program.ask("end", 8)
    client.program.ask("shutdown")
    old.expect_cut(code=3)


@case("S25", "RESEND and RESENT")
def resent(client):
    """A RESENT that nobody asked for is ignored; LANDED, RESEND, and all three in version 1, are
    protocol errors"""
    client.listen()
    answer = peer.frame(peer.RESENT, call=3, code=1)
    session = client.session(version=2)
    session.send(answer)
    urls = client.send(session, ["a"], 1)
    client.serve(session, 1, 1)
    client.take(1, urls, "a")
    for wrong in (peer.landed(1), peer.frame(peer.RESEND, call=1),
                  peer.frame(peer.RESENT, call=3, code=3), peer.frame(peer.RESENT, call=0, code=1)):
        session = client.session(version=2)
        session.send(wrong)
        session.expect_cut(code=peer.PROTOCOL_ERROR)
    session = client.session()
    session.send(answer)
    session.expect_cut(code=peer.PROTOCOL_ERROR)
