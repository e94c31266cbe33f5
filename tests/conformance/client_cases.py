# Copyright 2026 The grpcfd Authors
# SPDX-License-Identifier: Apache-2.0
"""The cases for clients: the runner plays the server. CASES has them by number."""
import os
import socket

import peer
from peer import check

CASES = {}


def case(number, section):
    """`section` is the heading of PROTOCOL.md that asks for it."""
    def add(function):
        check(number not in CASES, f"{number} is there twice")
        CASES[number] = (section, function.__doc__, function)
        return function
    return add


class Server:
    """The server that the program connects to."""

    def __init__(self, program, folder):
        self.program = program
        self.path = os.path.join(folder, "s")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self.files = []

    def open(self, limits=(16, 64, 16)):
        self.program.ask("open", self.path, *limits)
        self.told = limits

    def accept(self):
        """The next hello, checked: its connection, and its fields."""
        self._listener.settimeout(peer.PATIENCE)
        connection = self._listener.accept()[0]
        data, fds = b"", []
        while len(data) < 64:
            got = peer.receive(connection, 64 - len(data))
            check(got is not None and got[0], "the hello did not come")
            data, fds = data + got[0], fds + got[1]
        check(not fds, "descriptors ride on the hello")
        magic, size, low, high, flags, token, *limits, rest = peer.HELLO.unpack(data)
        check((magic, size, flags) == (peer.HELLO_MAGIC, 64, 0), f"a bad hello: {data.hex()}")
        check(1 <= low <= high, f"versions {low} to {high}")
        check(any(token), "the token is zero")
        if low == 1 == high:
            check(not any(rest), f"reserved bytes are not 0: {data.hex()}")
        check(tuple(limits) == self.told, f"limits {limits}, expected {self.told}")
        return connection, token, (low, high)

    def session(self, limits=(16, 64, 16), session_id=7, version=1):
        """Accepts, and opens a session of this protocol version."""
        connection, token, (low, high) = self.accept()
        check(low <= version <= high, f"the client speaks versions {low} to {high}")
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with connection, theirs:
            peer.send(connection, peer.reply(version=version, session_id=session_id, limits=limits),
                      [theirs.fileno()])
            got = peer.receive(connection, 1)
            check(got is not None and got[0] == b"", "the client did not close the connection")
        return peer.Session(mine, session_id, token, limits)

    def begin(self, call=1, files=(), session=None, limits=(16, 64, 16)):
        """Has the program make a call with these files. (session, entry, frames)"""
        for content in files:
            self.program.ask("attach", call, content)
        self.program.say("start", call)
        return self.begin_in(session or self.session(limits), files)

    def begin_in(self, session, files):
        entry = peer.METADATA.unpack(bytes.fromhex(self.program.answer()))
        frames, count = [], 0
        while count < len(files):
            frames.append(session.frame(peer.DATA))
            count += frames[-1].count
        return session, entry, frames

    def session_2(self, call, files):
        """begin(), in a new session of version 2."""
        for content in files:
            self.program.ask("attach", call, content)
        self.program.say("start", call)
        return self.begin_in(self.session(version=2), files)

    def send(self, session, contents, call, first=0, scoped=False):
        """Sends files for a call: their URLs."""
        fds = [peer.file_of(content) for content in contents]
        session.send(peer.data(len(fds), first, 0 if scoped else call), fds)
        urls = [peer.url_of(fd, first + k, scoped) for k, fd in enumerate(fds)]
        for fd in fds:
            os.close(fd)
        return urls

    def close(self):
        self._listener.close()


def call_id(entry):
    return entry[6]


# --- Opening a session ---


@case("C1", "Hello")
def hello(server):
    """One hello of 64 bytes with the client's limits and a token; the connection is closed after
    the reply"""
    server.open((9, 33, 5))
    server.begin()


@case("C2", "HelloReply")
def reply_in_pieces(server):
    """A reply that comes in pieces, with the descriptor on the first one, is a reply"""
    server.open()
    server.program.say("start", 1)
    connection, token, _ = server.accept()
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    data = peer.reply()
    with connection, theirs:
        peer.send(connection, data[:1], [theirs.fileno()])
        for k in range(1, 64, 21):
            peer.send(connection, data[k:k + 21])
        server.program.answer()
    mine.close()


@case("C3", "HelloReply")
def refusals(server):
    """Every status but OK fails the call that needs a session; a later call may succeed"""
    server.open()
    for status in (1, 3, 4, 5, 6, 7, 99):
        server.program.ask("attach", status, "x")
        server.program.say("start", status)
        connection, _, _ = server.accept()
        with connection:
            peer.send(connection, peer.reply(status))
        try:
            server.program.answer()
        except peer.Error:
            server.program.ask("end", status)
            continue
        raise peer.Failed(f"status {status} was taken for OK")
    server.begin(1, ["x"])


@case("C4", "HelloReply")
def malformed_replies(server):
    """A malformed reply opens no session, and no descriptor that came with it stays open"""
    server.open()
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one = [theirs.fileno()]
    bad = [
        (peer.reply(magic=b"HTTP/1.1"), one), (peer.reply(size=63), one),
        (peer.reply(flags=1), one), (peer.reply(reserved=bytes(27) + b"\1"), one),
        (peer.reply(version=0), one), (peer.reply(version=9), one),
        (peer.reply(session_id=0), one), (peer.reply(limits=(0, 64, 16)), one),
        (peer.reply(limits=(16, 0, 16)), one), (peer.reply(), []), (peer.reply(), one * 2),
        (peer.reply(), one * 253), (peer.reply(status=3), one), (peer.reply()[:63], one),
        (peer.reply(), [0]),
    ]
    before = None
    for number, (data, fds) in enumerate(bad):
        server.program.ask("attach", number, "x")
        server.program.say("start", number)
        connection, _, _ = server.accept()
        with connection:
            peer.send(connection, data, fds)
        try:
            server.program.answer()
        except peer.Error:
            server.program.ask("end", number)
        else:
            raise peer.Failed(f"{data.hex()} with {len(fds)} descriptors opened a session")
        settle(server, before)
        # The first look may come before the program has closed what came.
        now = int(server.program.ask("fds"))
        before = now if before is None else min(before, now)
    mine.close()
    theirs.close()


def settle(server, before):
    """The program has no more descriptors open than before; it may close them in its own time."""
    if before is not None:
        for _ in range(2000):
            now = int(server.program.ask("fds"))
            if now <= before:
                return
        raise peer.Failed(f"the program has {now} descriptors open, and had {before} before")


@case("C5", "Token")
def token(server):
    """The token is the channel's over all its sessions"""
    server.open()
    first, entry, _ = server.begin(1, ["x"])
    check(entry[7] == first.token, "the entry has another token than the hello")
    first.end()
    second, entry, _ = server.begin(2, ["x"])
    check(first.token == second.token == entry[7], "the token has changed with the session")


@case("C6", "The session socket")
def end_of_session(server):
    """After the end of a session the next call opens another one"""
    server.open()
    for number in range(1, 4):
        server.begin(number, ["x"])[0].end()


# --- Frames, calls and metadata ---


@case("C7", "Order and numbers")
def data_before_metadata(server):
    """DATA goes out before the metadata, with the indices from 0; the entry counts it"""
    server.open()
    files = ["a", "b", "c"]
    session, entry, frames = server.begin(1, files)
    version, flags, reserved, attempt, count, holes, call, token, session_id = entry
    check((version, flags, reserved, attempt, holes) == (1, 0, 0, 0, 0), f"a bad entry: {entry}")
    check((count, token, session_id) == (3, session.token, session.id), f"a bad entry: {entry}")
    found = {one.first + k: text for one in frames for k, text in enumerate(one.contents())}
    check(found == dict(enumerate(files)), f"the frames bring {found}")
    check(all((one.call, one.attempt) == (call, 0) for one in frames) and call, "not the call's")


@case("C8", "Order and numbers")
def more_after_the_metadata(server):
    """What a running call sends later goes on counting"""
    server.open()
    session, entry, _ = server.begin(1, ["a"])
    for index in range(1, 20):
        server.program.ask("attach", 1, f"later{index}")
        one = session.frame(peer.DATA)
        check((one.call, one.first, one.contents()) == (
            call_id(entry), index, [f"later{index}"]), "a wrong frame")
        if index % 8 == 0:
            session.send(peer.credit(index))


@case("C9", "`grpcfd-bin`")
def calls_have_numbers_of_their_own(server):
    """No two calls have the same id, and each counts from 0"""
    server.open()
    session, entry, _ = server.begin(1, ["a"])
    ids = {call_id(entry)}
    for number in range(2, 10):
        _, entry, frames = server.begin(number, ["a", "b"], session)
        check(frames[0].first == 0 and entry[4] == 2, "it does not count from 0")
        ids.add(call_id(entry))
    check(len(ids) == 9 and 0 not in ids, f"the ids are {ids}")


@case("C10", "`grpcfd-bin`")
def a_call_that_brings_nothing(server):
    """A call that brings nothing names the session with the count 0, and can get some back"""
    server.open()
    session, entry, _ = server.begin(1)
    check((entry[4], entry[8]) == (0, session.id), f"a bad entry: {entry}")
    urls = server.send(session, ["back"], call_id(entry))
    check(server.program.ask("take", 1, urls[0]) == "back", "another content")


@case("C11", "Window")
def limit_of_a_call(server):
    """A call with more than max_fds_per_call, the lower of both ends', is refused"""
    server.open((3, 64, 0))
    session = server.begin(1, ["x"])[0]
    for content in "abcd":
        try:
            server.program.ask("attach", 2, content)
        except peer.Error as error:
            check(error.code == "INVALID_ARGUMENT", f"{error}")
            break
    else:
        server.program.fails("start", 2, code="INVALID_ARGUMENT")
    session.expect_none(peer.DATA)
    session.end()
    session = server.begin(3, ["x"], limits=(2, 64, 0))[0]
    for content in "abc":
        server.program.ask("attach", 4, content)
    server.program.fails("start", 4, code="INVALID_ARGUMENT")
    session.expect_none(peer.DATA)


@case("C12", "Window")
def window(server):
    """What was sent less the last CREDIT stays within the window; CREDIT lets it go on"""
    server.open()
    session = server.begin(1, ["a", "b"], limits=(2, 4, 0))[0]
    server.begin(2, ["c", "d"], session)
    server.program.ask("attach", 3, "e")
    server.program.say("start", 3)
    one = session.next(peer.DATA, patience=0.2)
    check(one is None, "more than the window was sent")
    session.send(peer.credit(1))
    check(session.frame(peer.DATA).contents() == ["e"], "another content")
    server.program.answer()


@case("C13", "DISCARD")
def discard(server):
    """Short of window the client says which calls it has ended"""
    server.open()
    session, entry, _ = server.begin(1, ["a", "b"], limits=(2, 4, 0))
    server.program.ask("over", 1)
    server.program.ask("end", 1)
    server.begin(2, ["c", "d"], session)
    server.program.ask("attach", 3, "e")
    server.program.say("start", 3)
    ids = session.frame(peer.DISCARD).numbers(8)
    check(call_id(entry) in ids, f"DISCARD of {ids}")
    session.send(peer.credit(2))
    check(session.frame(peer.DATA).contents() == ["e"], "another content")
    server.program.answer()


@case("C14", "CREDIT")
def credit(server):
    """The client says what it has disposed of: taken, or closed with the call"""
    server.open((4, 8, 0))
    session, entry, _ = server.begin(1, limits=(16, 64, 0))
    urls = [server.send(session, [f"{k}"], call_id(entry), k)[0] for k in range(8)]
    for k in range(4):
        check(server.program.ask("take", 1, urls[k]) == f"{k}", "another content")
    total = 0
    while total < 4:  # A quarter of the window is 2.
        total = session.frame(peer.CREDIT).total
    check(total == 4, f"credit for {total} after 4 were taken")
    server.program.ask("over", 1)
    server.program.ask("end", 1)
    # Nobody says when: with the next call at the latest.
    server.begin(2, session=session)
    while total < 7:
        total = session.frame(peer.CREDIT).total
    check(total <= 8, f"credit for {total} of 8")


@case("C15", "Descriptors and calls")
def other_calls(server):
    """Descriptors for a call that the client does not know are closed, and counted as disposed"""
    server.open((4, 8, 0))
    session, entry, _ = server.begin(1)
    urls = server.send(session, ["mine"], call_id(entry))
    check(server.program.ask("take", 1, urls[0]) == "mine", "another content")
    server.program.fails("take", 1, peer.url_of(0, 55))
    before = int(server.program.ask("fds"))
    total = 0
    for round_ in range(4):
        server.send(session, ["x"] * 4, call=9999 + round_)
        server.program.fails("take", 1, peer.url_of(0, 55))
        while total < 4 * round_ + 3:
            total = session.frame(peer.CREDIT).total
    settle(server, before)


@case("C16", "Order and numbers")
def any_order(server):
    """The index decides, not the order; indices may be left out"""
    server.open()
    session, entry, _ = server.begin(1)
    urls = {}
    for index in (7, 2, 4000000000, 0):
        urls[index] = server.send(session, [f"{index}"], call_id(entry), index)[0]
    for index in (0, 2, 7, 4000000000):
        check(server.program.ask("take", 1, urls[index]) == f"{index}", "another content")
    server.program.fails("take", 1, urls[2])


@case("C17", "Descriptors and calls")
def end_of_call(server):
    """When a call ends, what was not taken is closed"""
    server.open()
    session, entry, _ = server.begin(1, ["x"])
    server.program.ask("over", 1)
    server.program.ask("end", 1)
    server.begin(2, session=session)
    before = int(server.program.ask("fds"))
    for number in range(3, 8):
        _, entry, _ = server.begin(number, session=session)
        urls = server.send(session, ["a", "b", "c"], call_id(entry))
        check(server.program.ask("take", number, urls[1]) == "b", "another content")
        server.program.ask("over", number)
        server.program.ask("end", number)
        settle(server, before)


# --- What cuts a session ---


def lies(call):
    """(what, bytes, how many descriptors): each is a protocol error."""
    good = peer.data(2, 0, call)
    yield "17 descriptors for 1", peer.data(1, 0, call), 17
    yield "253 descriptors for 1", peer.data(1, 0, call), 253
    yield "one more", peer.data(2, 0, call), 3
    yield "one fewer", peer.data(2, 0, call), 1
    yield "none", peer.data(2, 0, call), 0
    yield "short", good[:63], 2
    yield "one byte", good[:1], 2
    yield "long", good + b"\0", 2
    yield "very long", good + bytes(4096), 2
    yield "unknown type", peer.frame(6), 0
    yield "type 0", peer.frame(0), 0
    yield "flags", peer.frame(peer.DATA, 1, 0, call, flags=1), 1
    yield "DATA with a code", peer.frame(peer.DATA, 1, 0, call, code=1), 1
    yield "DATA with a payload", peer.frame(peer.DATA, 1, 0, call, payload=b"\0\1"), 1
    yield "DATA of none", peer.data(0, 0, call), 0
    yield "DATA of 254", peer.data(254, 0, call), 0
    yield "index too high", peer.data(2, 2**32 - 2, call), 2
    yield "attempt without a call", peer.data(1, 0, 0, attempt=1), 1
    yield "CREDIT with descriptors", peer.credit(0), 1
    yield "CREDIT beyond what was sent", peer.credit(1), 0
    yield "CREDIT with a code", peer.frame(peer.CREDIT, code=1), 0
    yield "CREDIT with more", peer.frame(peer.CREDIT, payload=bytes(8) + b"\1"), 0
    yield "CREDIT with a call", peer.frame(peer.CREDIT, call=1), 0
    yield "DISCARD of none", peer.discard(n=0), 0
    yield "DISCARD of 6", peer.discard(1, 2, 3, 4, 5, n=6), 0
    yield "DISCARD of call 0", peer.discard(1, 0), 0
    yield "DISCARD with more", peer.discard(1, 2, n=1), 0
    yield "WITHDRAW of none", peer.withdraw(n=0), 0
    yield "WITHDRAW of 11", peer.withdraw(*range(10), n=11), 0
    yield "WITHDRAW with more", peer.withdraw(1, 2, n=1), 0
    yield "CLOSE without a code", peer.close(0), 0
    yield "CLOSE with a line feed", peer.close(1, b"a\nb"), 0
    yield "more session-scoped ones than max_session_fds", peer.data(17, 0, 0), 17


@case("C18", "Errors")
def protocol_errors(server):
    """Each protocol error cuts the session with CLOSE, and closes what came in it"""
    server.open()
    before = None
    for number, (what, data, count) in enumerate(lies(1), 1):
        try:
            session, entry, _ = server.begin(number)
            call = call_id(entry)
            _, data, count = list(lies(call))[number - 1]
            urls = server.send(session, ["good", "good"], call, first=100)
            fds = [peer.file_of("bad")] * count
            session.send(data, fds)
            for fd in set(fds):
                os.close(fd)
            server.program.fails("take", number, urls[0].replace("100", "0"))
            session.expect_cut()
            server.program.ask("over", number)
            server.program.ask("end", number)
            settle(server, before)
            before = before or int(server.program.ask("fds"))
        except (peer.Failed, peer.Error, OSError) as error:
            raise peer.Failed(f"{what}: {error}") from error


@case("C19", "Errors")
def twice(server):
    """An index that a call has had is a protocol error, also after it was taken"""
    server.open()
    for number, take in ((1, False), (2, True)):
        session, entry, _ = server.begin(number)
        urls = server.send(session, ["a", "b"], call_id(entry))
        if take:
            server.program.ask("take", number, urls[1])
        server.send(session, ["c"], call_id(entry), first=1)
        server.program.fails("take", number, peer.url_of(0, 77))
        session.expect_cut()


@case("C20", "CLOSE")
def close(server):
    """CLOSE ends the session, whatever its code; the next call opens another one"""
    server.open()
    for number, code in enumerate((1, 2, 3, 4, 77), 1):
        session, entry, _ = server.begin(number)
        session.send(peer.close(code, b"x" * 40))
        server.program.fails("take", number, peer.url_of(0, 0), code="UNAVAILABLE")
        session.end()


@case("C21", "The session socket")
def drain(server):
    """What was sent before the end of the session can be taken after it"""
    server.open()
    session, entry, _ = server.begin(1)
    urls = server.send(session, ["a", "b"], call_id(entry))
    urls += server.send(session, ["c"], call_id(entry), first=2)
    session.end()
    for url, content in zip(urls, "abc"):
        check(server.program.ask("take", 1, url) == content, "another content")


# --- Session-scoped descriptors ---


@case("C22", "Session-scoped descriptors")
def register(server):
    """DATA of call 0; the call that names it does not count it; WITHDRAW, and no index twice"""
    server.open()
    session = server.begin(1, ["x"])[0]
    indices = []
    for content in ("a", "b"):
        url = server.program.ask("register", content)
        one = session.frame(peer.DATA)
        check((one.call, one.attempt, one.contents()) == (0, 0, [content]), "a wrong frame")
        check(url == peer.url_of(one.fds[0], one.first, scoped=True), f"another URL: {url}")
        indices.append(one.first)
        _, entry, _ = server.begin(content, session=session)
        check(entry[4] == 0, "the call counts it")
        server.program.ask("unregister", url)
        check(session.frame(peer.WITHDRAW).numbers(4) == (one.first,), "another index")
    check(len(set(indices)) == 2, "an index was used twice")


@case("C23", "Session-scoped descriptors")
def register_limit(server):
    """No more than the server's max_session_fds at a time; WITHDRAW makes room"""
    server.open()
    session = server.begin(1, ["x"], limits=(16, 64, 2))[0]
    urls = [server.program.ask("register", content) for content in "ab"]
    server.program.fails("register", "c", code="RESOURCE_EXHAUSTED")
    server.program.ask("unregister", urls[0])
    server.program.ask("register", "d")
    contents = [session.frame(peer.DATA).contents() for _ in range(3)]
    check(contents == [["a"], ["b"], ["d"]], f"{contents}")


@case("C24", "Session-scoped descriptors")
def register_again(server):
    """The next session has them before any call, under the same indices"""
    server.open()
    session = server.begin(1, ["x"])[0]
    url = server.program.ask("register", "pool")
    index = session.frame(peer.DATA).first
    session.end()
    _, _, frames = server.begin(2, ["one"] * 2)
    first = frames[0]
    check((first.call, first.first, first.contents()) == (0, index, ["pool"]),
          "it does not come first")
    check(url == peer.url_of(first.fds[0], index, scoped=True), "the URL is not the same")


@case("C25", "Session-scoped descriptors")
def receive_scoped(server):
    """Each request gets a duplicate, in any call, until WITHDRAW; they count as disposed"""
    server.open((4, 8, 4))
    session, entry, _ = server.begin(1)
    urls = server.send(session, ["a", "b", "c"], 0, first=5, scoped=True)
    for _ in range(2):
        check(server.program.ask("take", 1, urls[2]) == "c", "another content")
    check(session.frame(peer.CREDIT).total == 3, "they were not counted as disposed")
    server.begin(2, session=session)
    check(server.program.ask("take", 2, urls[0]) == "a", "another content")
    session.send(peer.withdraw(5, 999))
    server.program.fails("take", 2, urls[0], code="NOT_FOUND")
    check(server.program.ask("take", 2, urls[1]) == "b", "another content")


@case("C26", "Errors")
def scoped_twice(server):
    """A session-scoped index that the client holds is a protocol error"""
    server.open()
    session, _, _ = server.begin(1)
    server.send(session, ["a"], 0, scoped=True)
    urls = server.send(session, ["b"], 0, scoped=True)
    server.program.fails("take", 1, urls[0])
    session.expect_cut()


@case("C27", "CREDIT")
def credit_that_shrinks(server):
    """A smaller CREDIT than before is ignored"""
    server.open()
    session = server.begin(1, ["a", "b"], limits=(2, 2, 0))[0]
    session.send(peer.credit(2))
    session.send(peer.credit(1))
    server.begin(2, ["c", "d"], session)


@case("C28", "DISCARD")
def discard_from_the_server(server):
    """A server may send DISCARD; calls that the client does not know are ignored"""
    server.open()
    session, entry, _ = server.begin(1)
    session.send(peer.discard(1000, 1001))
    urls = server.send(session, ["a"], call_id(entry))
    check(server.program.ask("take", 1, urls[0]) == "a", "another content")


@case("C29", "Version negotiation")
def versions(server):
    """A server that speaks none of the client's versions is an error, said at once"""
    server.open()
    server.program.ask("attach", 1, "x")
    server.program.say("start", 1)
    connection, _, (_, high) = server.accept()
    with connection:
        peer.send(connection, peer.reply(peer.UNSUPPORTED_VERSION, version=high + 7))
    try:
        server.program.answer()
    except peer.Error as error:
        check(error.code == "FAILED_PRECONDITION", f"{error}")
        return
    raise peer.Failed("a server of another version was taken")


@case("C30", "LANDED")
def landed(server):
    """What the client keeps of a call is closed with LANDED at the latest; unknown calls are
    ignored"""
    server.open()
    session = server.session_2(1, ["before"])[0]
    before = int(server.program.ask("fds"))
    for number in range(2, 6):
        _, entry, _ = server.begin(number, ["x", "y"], session)
        session.send(peer.landed(call_id(entry), 1000 + number))
    settle(server, before)
    # The session goes on.
    urls = server.send(session, ["a"], call_id(entry))
    check(server.program.ask("take", 5, urls[0]) == "a", "another content")


@case("C31", "RESEND and RESENT")
def resend(server):
    """RESEND is answered with the same descriptors under the same indices, and then SENT; or with
    GONE alone by a client that keeps nothing"""
    server.open()
    session, entry, _ = server.session_2(1, ["a", "b", "c"])
    session.send(peer.frame(peer.RESEND, call=call_id(entry)))
    contents = {}
    one = session.next()
    while one is not None and one.type != peer.RESENT:
        if one.type == peer.DATA:
            check((one.call, one.attempt) == (call_id(entry), 0), "DATA of another call")
            contents.update(enumerate(one.contents(), one.first))
        one = session.next()
    check(one is not None, "no RESENT came")
    check((one.call, one.attempt) == (call_id(entry), 0), "RESENT of another call")
    sent = {0: "a", 1: "b", 2: "c"}
    check((one.code, contents) in ((1, sent), (2, {})), f"code {one.code} after {contents}")
    urls = server.send(session, ["back"], call_id(entry))
    check(server.program.ask("take", 1, urls[0]) == "back", "another content")


@case("C32", "RESEND and RESENT")
def gone(server):
    """RESEND of a call that the client has not got, or that has landed, is answered with GONE"""
    server.open()
    session, entry, _ = server.session_2(1, ["a"])
    session.send(peer.landed(call_id(entry)))
    for call in (call_id(entry), 1000):
        session.send(peer.frame(peer.RESEND, call=call))
        answer = session.frame(peer.RESENT)
        check((answer.call, answer.code) == (call, 2), "not GONE")
    session.expect_none(peer.DATA)


@case("C33", "Errors")
def version_2_errors(server):
    """RESENT from a server, a malformed LANDED or RESEND, and LANDED and RESEND in version 1, are
    protocol errors"""
    server.open()
    wrong = [peer.frame(peer.RESENT, call=1, code=1), peer.frame(peer.LANDED),
             peer.landed(1, 0), peer.frame(peer.RESEND, call=0),
             peer.frame(peer.RESEND, call=1, code=1)]
    for number, data in enumerate(wrong, 1):
        session = server.session_2(number, ["x"])[0]
        session.send(data)
        session.expect_cut()
    for number, data in enumerate((peer.landed(1), peer.frame(peer.RESEND, call=1)), 10):
        session, entry, _ = server.begin(number)
        session.send(data)
        server.program.fails("take", number, peer.url_of(0, 0))
        session.expect_cut()
