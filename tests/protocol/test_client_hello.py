"""The ClientHello: what is read from real ones and odd ones, however they are cut, and each way to be wrong."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Callable
from itertools import pairwise
from shutil import which

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.errors import ClientHandshakeError
from mailproxy.protocol import NeedMore
from mailproxy.protocol.client_hello import (
    HELLO_MAX,
    ClientHello,
    ClientHelloError,
    NotTlsError,
    parse_client_hello,
    parse_in_records,
)
from tests.support.patience import PATIENCE_S
from tests.support.protocol.client_hellos import (
    ALERT,
    ALPN,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    ECH,
    GREASE,
    SERVER_NAME,
    VERSION_AND_RANDOM,
    X25519MLKEM768,
    alpn,
    browser_client_hello,
    client_hello,
    client_hello_of_size,
    client_hello_without_extensions,
    ech,
    extension,
    key_share,
    message,
    numbers,
    record,
    server_name,
    split_into_records,
    split_into_records_of,
    vector,
)

NAME = "imap.example.org"
BROWSER = browser_client_hello()
BROWSER_SAYS = ClientHello(server_name=NAME, alpn=(numbers(GREASE[2]), b"imap", b"h2"), has_ech=True)
TINY = client_hello_without_extensions()
QUESTIONS_MAX = 60  # a client of one byte per record comes to 45, whatever it does


def read(wire: bytes) -> ClientHello:
    """The hello that takes exactly these bytes."""
    answer = parse_client_hello(wire)
    assert not isinstance(answer, NeedMore)
    said, length = answer
    assert length == len(wire)
    return said


def read_as_told(wire: bytes) -> tuple[ClientHello, int]:
    """The hello and the number of questions, where nothing but what was asked for has come each time."""
    have = questions = 0
    while True:
        questions += 1
        answer = parse_client_hello(wire[:have])
        if not isinstance(answer, NeedMore):
            assert answer[1] == have == len(wire)
            return answer[0], questions
        assert have < answer.total <= len(wire)
        have = answer.total


def error_of(data: bytes) -> ClientHelloError | None:
    """What is wrong with it; that nothing else may be raised, and nothing senseless answered, is always tried."""
    try:
        answer = parse_client_hello(data)
    except ClientHelloError as error:
        return error
    if isinstance(answer, NeedMore):
        assert len(data) < answer.total <= HELLO_MAX
    else:
        assert answer[1] <= len(data)
        assert answer[1] <= HELLO_MAX
    return None


# Real ones


def said_by_python(context: ssl.SSLContext, name: str | None) -> bytes:
    """What a real client writes before it has heard anything."""
    wire = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), wire, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return wire.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
@pytest.mark.parametrize("protocols", [(), ("imap",), ("h2", "pop3", "x" * 255)], ids=len)
@pytest.mark.parametrize(
    ("asked", "name"),
    [
        (None, None),
        (NAME, NAME),
        ("IMAP.Example.ORG", NAME),
        ("imap.example.org.", NAME),
        ("bücher.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("192.0.2.1", None),  # no name, so none is sent
    ],
)
def test_a_real_client_is_understood(
    version: ssl.TLSVersion, protocols: tuple[str, ...], asked: str | None, name: str | None
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    assert read(said_by_python(context, asked)) == ClientHello(
        server_name=name, alpn=tuple(protocol.encode() for protocol in protocols)
    )


@pytest.mark.skipif(not which("openssl"), reason="openssl is not installed")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["-servername", "IMAP.Example.Org", "-alpn", "imap,h2"],
            ClientHello(server_name=NAME, alpn=(b"imap", b"h2")),
        ),
        (["-noservername", "-tls1_2"], ClientHello()),
        (
            # Longer than the shortest records that it can be made to write: a real client's hello in two of them.
            ["-servername", NAME, "-max_send_frag", "512", "-alpn", ",".join(["x" * 99] * 5)],
            ClientHello(server_name=NAME, alpn=(b"x" * 99,) * 5),
        ),
    ],
    ids=["TLS 1.3", "TLS 1.2 without a name", "in two records"],
)
def test_a_real_client_is_understood_over_a_socket(options: list[str], said: ClientHello) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        address = "127.0.0.1:{1}".format(*listener.getsockname())
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", address, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE_S)
                wire = b""
                while isinstance(answer := parse_client_hello(wire), NeedMore):
                    more = connection.recv(answer.total - len(wire))
                    assert more, "the client has left"
                    wire += more
    assert answer == (said, len(wire))


def test_a_real_client_can_say_a_lot() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["x" * 255] * 50)
    wire = said_by_python(context, NAME)
    assert len(wire) > 50 * 256
    assert read(wire) == ClientHello(server_name=NAME, alpn=(b"x" * 255,) * 50)


# Odd ones


def test_a_browsers_hello_is_understood() -> None:
    assert len(BROWSER) > 1460  # no segment of Ethernet holds it
    assert read(record(BROWSER)) == BROWSER_SAYS


@pytest.mark.parametrize(
    ("extensions", "said"),
    [
        ([], ClientHello()),
        ([extension(GREASE[0]), extension(GREASE[1], b"\0")], ClientHello()),
        ([extension(GREASE[0])] * 2, ClientHello()),  # whether an unknown one comes twice, the server says
        ([server_name(b"IMAP.Example.ORG")], ClientHello(server_name=NAME)),
        ([server_name(b"imap.example.org.")], ClientHello(server_name=NAME)),
        ([server_name(b"a" * 255)], ClientHello(server_name="a" * 255)),
        ([server_name(b"_x-1.a b")], ClientHello(server_name="_x-1.a b")),
        ([server_name(b"other", kind=7)], ClientHello()),
        (
            [extension(SERVER_NAME, vector(b"\7" + vector(b"", 2) + b"\0" + vector(b"a", 2), 2))],
            ClientHello(server_name="a"),
        ),
        ([alpn(b"imap")], ClientHello(alpn=(b"imap",))),
        ([alpn(b"pop3", b"imap", b"pop3")], ClientHello(alpn=(b"pop3", b"imap", b"pop3"))),
        ([alpn(numbers(GREASE[0]), b"\0", b"x" * 255)], ClientHello(alpn=(b"\x0a\x0a", b"\0", b"x" * 255))),
        ([ech()], ClientHello(has_ech=True)),
        ([extension(ECH)], ClientHello(has_ech=True)),
        ([ech(), server_name(b"public.example")], ClientHello(server_name="public.example", has_ech=True)),
        ([key_share((X25519MLKEM768, 1216)), server_name(b"a")], ClientHello(server_name="a")),
    ],
    ids=[
        "none",
        "GREASE",
        "GREASE twice",
        "upper case",
        "the root's dot",
        "the longest name",
        "an odd name",
        "a name of another type",
        "names of two types",
        "one protocol",
        "protocols in their order",
        "odd protocols",
        "ECH alone",
        "an empty ECH",
        "ECH and the outer name",
        "a name behind a post-quantum key",
    ],
)
def test_extensions(extensions: list[bytes], said: ClientHello) -> None:
    assert read(record(client_hello(*extensions))) == said


@pytest.mark.parametrize(
    "odd",
    [
        TINY,
        client_hello(session_id=bytes(32)),
        client_hello(cipher_suites=numbers(*GREASE)),
        client_hello(cipher_suites=numbers(0x1301) * 1000),
        client_hello(compression=b"\1\0"),
        client_hello(compression=bytes(255)),
    ],
    ids=["no extensions", "session id", "GREASE suites", "1000 suites", "compression", "255 compressions"],
)
def test_what_is_only_there_to_be_skipped_is(odd: bytes) -> None:
    assert read(record(odd)) == ClientHello()


@pytest.mark.parametrize("minor", [0, 1, 2, 3, 4, 255])
def test_the_minor_version_of_a_record_says_nothing(minor: int) -> None:
    assert read(bytes([22, 3, minor]) + vector(BROWSER, 2)) == BROWSER_SAYS


labels = st.from_regex(r"\A[A-Za-z0-9_-]{1,20}\Z")
names = st.none() | st.lists(labels, min_size=1, max_size=4).map(".".join)
protocol_lists = st.lists(st.binary(min_size=1, max_size=20), max_size=4)
unknown = st.builds(
    extension, st.integers(0, 0xFFFF).filter(lambda kind: kind not in {SERVER_NAME, ALPN, ECH}), st.binary()
)


@settings(max_examples=80, deadline=None)
@given(st.data(), names, protocol_lists, st.booleans(), st.lists(unknown, max_size=4))
def test_what_is_written_is_read(
    data: st.DataObject, name: str | None, protocols: list[bytes], has_ech: bool, others: list[bytes]
) -> None:
    extensions = [
        *([server_name(name.encode())] if name else []),
        *([alpn(*protocols)] if protocols else []),
        *([ech()] if has_ech else []),
        *others,
    ]
    written = client_hello(
        *data.draw(st.permutations(extensions)), session_id=data.draw(st.binary(max_size=32))
    )
    assert read(record(written)) == ClientHello(
        server_name=name and name.lower(), alpn=tuple(protocols), has_ech=has_ech
    )


# Cut ones


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(1, len(BROWSER) - 1), max_size=40))
def test_records_may_be_cut_anywhere(cuts: set[int]) -> None:
    said, questions = read_as_told(split_into_records(BROWSER, cuts))
    assert said == BROWSER_SAYS
    assert questions < QUESTIONS_MAX


@pytest.mark.parametrize("cuts", [[1], [2], [3], [4], [1, 2, 3, 4], [2, 5], [len(TINY) - 1]], ids=str)
def test_the_head_of_the_message_may_be_cut(cuts: list[int]) -> None:
    assert read_as_told(split_into_records(TINY, cuts))[0] == ClientHello()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100, 1400])
def test_records_of_one_size(size: int) -> None:
    assert read_as_told(split_into_records_of(size, BROWSER))[0] == BROWSER_SAYS


@pytest.mark.parametrize("size", [100, 500, 1000, 2730])
def test_a_byte_per_record_takes_few_questions(size: int) -> None:
    wire = split_into_records_of(1, client_hello_of_size(size, server_name(b"a")))
    said, questions = read_as_told(wire)
    assert said == ClientHello(server_name="a")
    assert questions < QUESTIONS_MAX


def test_the_number_of_questions_grows_like_a_logarithm() -> None:
    sizes = [80, 160, 320, 640, 1280, 2560]
    questions = [read_as_told(split_into_records_of(1, client_hello_of_size(size)))[1] for size in sizes]
    steps = [after - before for before, after in pairwise(questions)]
    assert max(steps) <= 6  # twice as long: a question more for each sixth that goes


def test_a_whole_hello_takes_three_questions() -> None:
    assert read_as_told(record(BROWSER)) == (BROWSER_SAYS, 3)  # nothing, the record's head, all


CUT = {
    "one record": record(BROWSER),
    "five records": split_into_records(BROWSER, [1, 3, 600, 601]),
    "a byte per record": split_into_records_of(1, TINY),
    "no extensions": record(TINY),
    "other bytes in its last record": record(TINY + bytes(30)),
}


@pytest.mark.parametrize("wire", CUT.values(), ids=CUT.keys())
def test_what_is_not_all_there_is_waited_for(wire: bytes) -> None:
    for have in range(len(wire)):
        answer = parse_client_hello(wire[:have])
        assert isinstance(answer, NeedMore)
        assert have < answer.total <= len(wire)
    assert isinstance(parse_client_hello(wire), tuple)


@pytest.mark.parametrize("wire", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize(
    "behind",
    [b"\0", b"a1 CAPABILITY\r\n", record(b"\2\50", ALERT), record(BROWSER), b"\x16\2", bytes(2 * HELLO_MAX)],
    ids=["NUL", "clear text", "an alert", "another hello", "half a record's head", "a lot"],
)
def test_what_comes_behind_is_not_looked_at(wire: bytes, behind: bytes) -> None:
    assert parse_client_hello(wire + behind) == parse_client_hello(wire)


def test_what_stands_behind_the_message_in_its_record_belongs_to_it() -> None:
    wire = record(BROWSER + b"anything")
    assert read(wire) == BROWSER_SAYS


# As long as can be

_HEAD = 5
_RECORD_MAX = 2**14
LONGEST = client_hello_of_size(HELLO_MAX - 2 * _HEAD, server_name(b"a"))


def test_the_longest_hello_is_read() -> None:
    told = read_as_told(split_into_records(LONGEST, [_RECORD_MAX]))
    assert told[0] == ClientHello(server_name="a")


def test_a_hello_that_fills_a_record_is_read() -> None:
    filling = client_hello_of_size(_RECORD_MAX, server_name(b"a"))
    assert read(record(filling)) == ClientHello(server_name="a")
    longer = client_hello_of_size(_RECORD_MAX + 1, server_name(b"a"))
    assert read(split_into_records(longer, [_RECORD_MAX])) == ClientHello(server_name="a")
    with pytest.raises(ClientHelloError, match=r"^a record of 16385 bytes$"):
        parse_client_hello(record(longer))


def test_the_heads_of_records_count() -> None:
    wire = split_into_records(LONGEST, [9, 1000])
    with pytest.raises(ClientHelloError, match=f"^the hello is longer than {HELLO_MAX} bytes$"):
        parse_client_hello(wire)
    assert len(wire) == HELLO_MAX + _HEAD
    shorter = client_hello_of_size(HELLO_MAX - 3 * _HEAD)
    assert read(split_into_records(shorter, [9, 5000])) == ClientHello()


@pytest.mark.parametrize("size", [1000, 2730, 2731, 4000, 8000, HELLO_MAX - 6])
def test_no_more_is_asked_for_than_the_longest_hello_has(size: int) -> None:
    """However long it says that it is: what cannot end in time is refused as soon as that is clear."""
    wire = split_into_records_of(1, client_hello_of_size(size))
    fits = len(wire) <= HELLO_MAX
    assert fits is not any(error_of(wire[:have]) for have in [*range(0, HELLO_MAX, 97), HELLO_MAX])


# Wrong ones: from the first byte that cannot be a hello's

FRAMES = {
    "IMAP": (b"a", "the client does not speak TLS"),
    "HTTP": (b"G", "the client does not speak TLS"),
    "a NUL": (b"\0", "the client does not speak TLS"),
    "an SSLv2 hello": (b"\x80", "the client does not speak TLS"),
    "a PROXY header": (b"\r", "the client does not speak TLS"),
    "version 2.x": (b"\x16\2", "a record of version 2.x, TLS has 3.x"),
    "DTLS": (b"\x16\xfe", "a record of version 254.x, TLS has 3.x"),
    "an alert": (bytes([ALERT]), ""),
    "application data": (bytes([APPLICATION_DATA]), ""),
    "an empty record": (b"\x16\3\1\0\0", "a record of 0 bytes"),
    "a record too long": (b"\x16\3\1\x40\1", "a record of 16385 bytes"),
    "a HelloRequest": (record(b"\0\0\0\0")[:6], "the first message is of type 0, no ClientHello"),
    "a ServerHello": (record(message(BROWSER, kind=2))[:6], "the first message is of type 2, no ClientHello"),
    "a short hello": (record(b"\1\0\0\x21")[:9], "a hello of 33 bytes"),
    "a short hello in four records": (split_into_records_of(1, b"\1\0\0\x00"), "a hello of 0 bytes"),
    "a hello too long": (
        record(b"\1" + (HELLO_MAX - 8).to_bytes(3, "big"))[:9],
        f"the hello is longer than {HELLO_MAX} bytes",
    ),
    "the longest number": (record(b"\1\xff\xff\xff")[:9], f"the hello is longer than {HELLO_MAX} bytes"),
    "a hello too long when it is cut": (
        split_into_records(client_hello_of_size(HELLO_MAX - 2 * _HEAD + 1), [100])[:9],
        f"the hello is longer than {HELLO_MAX} bytes",
    ),
    "interrupted by an alert": (
        record(BROWSER[:1]) + bytes([ALERT]),
        "the hello is interrupted by a record of type 21",
    ),
    "interrupted by a ChangeCipherSpec": (
        record(BROWSER[:99]) + bytes([CHANGE_CIPHER_SPEC]),
        "the hello is interrupted by a record of type 20",
    ),
    "interrupted by clear text": (
        record(BROWSER[:99]) + b"a",
        "the hello is interrupted by a record of type 97",
    ),
    "another version in the middle": (
        record(BROWSER[:99]) + b"\x16\2",
        "a record of version 2.x, TLS has 3.x",
    ),
    "an empty record in the middle": (record(BROWSER[:99]) + b"\x16\3\1\0\0", "a record of 0 bytes"),
}


@pytest.mark.parametrize(("wire", "fact"), FRAMES.values(), ids=FRAMES.keys())
def test_what_is_no_hello_is_found_out_at_the_first_wrong_byte(wire: bytes, fact: str) -> None:
    assert isinstance(parse_client_hello(wire[:-1]), NeedMore)
    for more in (b"", b"\0", BROWSER, bytes(HELLO_MAX)):
        with pytest.raises(ClientHelloError) as caught:
            parse_client_hello(wire + more)
        assert fact in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        b"a1 CAPABILITY\r\n",
        b"EHLO there\r\n",
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\x80\x2e\1\3\1",
        b"\x16\2\0\0\5",
        b"\x16\xfe\xff\0\0",
    ],
)
def test_who_speaks_no_tls_is_told_from_who_speaks_it_badly(said: bytes) -> None:
    with pytest.raises(NotTlsError):
        parse_client_hello(said)
    with pytest.raises(ClientHelloError) as caught:
        parse_client_hello(record(b"\2"))
    assert not isinstance(caught.value, NotTlsError)


def test_the_fault_is_the_clients() -> None:
    assert issubclass(NotTlsError, ClientHelloError)
    assert issubclass(ClientHelloError, ClientHandshakeError)


# Wrong ones: what stands in them

_HELLO_TO_SESSION = VERSION_AND_RANDOM + b"\0"
_HELLO_TO_SUITES = _HELLO_TO_SESSION + vector(numbers(0x1301), 2)
_HELLO_TO_COMPRESSION = _HELLO_TO_SUITES + b"\1\0"

BODIES = {
    "no session id": (VERSION_AND_RANDOM, "session id of 0 bytes"),
    "a session id too long": (
        VERSION_AND_RANDOM + vector(bytes(33), 1) + vector(b"\x13\1", 2) + b"\1\0",
        "session id of 33 bytes",
    ),
    "a session id over the end": (VERSION_AND_RANDOM + b"\5" + bytes(4), "session id of 5 bytes"),
    "no cipher suites": (_HELLO_TO_SESSION, "cipher suites of 0 bytes"),
    "half a length of cipher suites": (_HELLO_TO_SESSION + b"\0", "cipher suites of 0 bytes"),
    "empty cipher suites": (_HELLO_TO_SESSION + b"\0\0\1\0", "cipher suites of 0 bytes"),
    "half a cipher suite": (_HELLO_TO_SESSION + vector(bytes(3), 2) + b"\1\0", "cipher suites of 3 bytes"),
    "cipher suites over the end": (_HELLO_TO_SESSION + b"\0\4" + bytes(3), "cipher suites of 4 bytes"),
    "no compression methods": (_HELLO_TO_SUITES, "compression methods of 0 bytes"),
    "empty compression methods": (_HELLO_TO_SUITES + b"\0", "compression methods of 0 bytes"),
    "compression methods over the end": (_HELLO_TO_SUITES + b"\2\0", "compression methods of 2 bytes"),
    "half a length of extensions": (_HELLO_TO_COMPRESSION + b"\0", "extensions of 0 bytes"),
    "extensions over the end": (_HELLO_TO_COMPRESSION + b"\0\5" + bytes(4), "extensions of 5 bytes"),
    "a byte behind the extensions": (
        _HELLO_TO_COMPRESSION + vector(extension(21), 2) + b"\0",
        "1 bytes behind the extensions",
    ),
    "bytes behind no extensions": (_HELLO_TO_COMPRESSION + bytes(9), "7 bytes behind the extensions"),
}

EXTENSIONS = {
    "a byte": (b"\0", "1 bytes are left, and an extension has at least 4"),
    "a kind and half a length": (
        extension(21) + b"\0\0\0",
        "3 bytes are left, and an extension has at least 4",
    ),
    "over the end": (extension(21) + b"\0\x2b\0\3\0\0", "extension 43 exceeds the hello"),
    "a name over the end": (server_name(b"a")[:-1], "extension 0 exceeds the hello"),
    "server name twice": (server_name(b"a") * 2, "server name comes twice"),
    "server name twice, the first of another type": (
        server_name(b"a", kind=1) + server_name(b"a"),
        "server name comes twice",
    ),
    "ALPN twice": (alpn(b"imap") + extension(21) + alpn(b"imap"), "ALPN comes twice"),
    "ECH twice": (ech() + server_name(b"a") + extension(ECH), "ECH comes twice"),
}

SERVER_NAMES = {
    "nothing": (b"", "a list of server names of 0 bytes"),
    "half a length": (b"\0", "a list of server names of 1 bytes"),
    "an empty list": (b"\0\0", "a list of server names of 2 bytes"),
    "a list over the end": (b"\0\5\0\0\1a", "a list of server names of 6 bytes"),
    "a byte behind the list": (b"\0\4\0\0\1ab", "a list of server names of 7 bytes"),
    "a type alone": (b"\0\1\0", "a server name exceeds its list"),
    "half a name's length": (b"\0\2\0\0", "a server name exceeds its list"),
    "a name over the end": (vector(b"\0\0\2a", 2), "a server name exceeds its list"),
    "another type over the end": (vector(b"\7\0\2a", 2), "a server name exceeds its list"),
    "a byte behind the name": (vector(b"\0\0\1ab", 2), "a server name exceeds its list"),
    "two host names": (server_name(b"a", b"a")[4:], "two host names"),
    "an empty name": (server_name(b"")[4:], "a host name of 0 bytes"),
    "the root": (server_name(b".")[4:], "a host name of 1 bytes"),
    "dots": (server_name(b"...")[4:], "a host name of 3 bytes"),
    "a name too long": (server_name(b"a" * 256)[4:], "a host name of 256 bytes"),
    "dots too many": (server_name(b"a" + b"." * 255)[4:], "a host name of 256 bytes"),
    "UTF-8": (server_name("bücher.example".encode())[4:], "a host name that is not printable ASCII"),
    "a NUL": (server_name(b"imap.example.org\0.evil")[4:], "a host name that is not printable ASCII"),
    "a line's end": (server_name(b"a\r\nb")[4:], "a host name that is not printable ASCII"),
    "an escape": (server_name(b"\x1b[31m")[4:], "a host name that is not printable ASCII"),
}

_OVER = "an application protocol is empty or exceeds its list"
PROTOCOLS = {
    "nothing": (b"", "a list of application protocols of 0 bytes"),
    "half a length": (b"\0", "a list of application protocols of 1 bytes"),
    "an empty list": (b"\0\0", "a list of application protocols of 2 bytes"),
    "a list over the end": (b"\0\6\4imap", "a list of application protocols of 7 bytes"),
    "a byte behind the list": (b"\0\5\4imap\0", "a list of application protocols of 8 bytes"),
    "an empty protocol": (alpn(b"")[4:], _OVER),
    "an empty protocol behind another": (alpn(b"imap", b"")[4:], _OVER),
    "a protocol over the end": (vector(b"\5imap", 2), _OVER),
    "a second one over the end": (vector(b"\4imap\1", 2), _OVER),
}

CONTENTS = {
    **{f"body: {name}": (message(body), fact) for name, (body, fact) in BODIES.items()},
    **{f"extensions: {name}": (client_hello(wrong), fact) for name, (wrong, fact) in EXTENSIONS.items()},
    **{
        f"server name: {name}": (client_hello(ech(), extension(SERVER_NAME, wrong)), fact)
        for name, (wrong, fact) in SERVER_NAMES.items()
    },
    **{
        f"ALPN: {name}": (client_hello(extension(ALPN, wrong), server_name(b"a")), fact)
        for name, (wrong, fact) in PROTOCOLS.items()
    },
}


@pytest.mark.parametrize(("wrong", "fact"), CONTENTS.values(), ids=CONTENTS.keys())
def test_what_is_wrong_in_a_hello_is_said(wrong: bytes, fact: str) -> None:
    for wire in (record(wrong), split_into_records_of(7, wrong), record(wrong) + record(BROWSER)):
        with pytest.raises(ClientHelloError) as caught:
            parse_client_hello(wire)
        assert str(caught.value) == fact
        assert not isinstance(caught.value, NotTlsError)


@pytest.mark.parametrize(("wrong", "fact"), CONTENTS.values(), ids=CONTENTS.keys())
def test_what_lies_behind_a_wrong_hello_makes_up_for_nothing(wrong: bytes, fact: str) -> None:
    """No length reads on in the bytes behind the message, even in those of the same record."""
    with pytest.raises(ClientHelloError, match=f"^{fact}$"):
        parse_client_hello(record(wrong + bytes(300)))


# Noise

heads = st.sampled_from(
    [b"", b"\x16", b"\x16\3\1", b"\x16\3\1\0\x40", b"\x16\3\1\0\x40\1\0\0\x3c", record(BROWSER[:60])]
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A hello with a few bytes overwritten, stretches cut out or doubled, before or after it was cut into records."""
    data = draw(st.sampled_from([BROWSER, TINY, client_hello(server_name(b"a.b"), alpn(b"imap", b"h2"))]))
    cuts = draw(st.sets(st.integers(1, 60), max_size=3))
    is_wire = draw(st.booleans())
    data = split_into_records(data, cuts) if is_wire else data
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, min(len(data), 120)) | st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([1, 1, 1, 2, 9])))
        replaced = st.binary(min_size=end - start, max_size=end - start)
        data = (
            data[:start]
            + draw(replaced | replaced | st.just(b"") | st.just(data[start:end] * 2))
            + data[end:]
        )
    return data if is_wire else split_into_records(data, cuts)


noise = st.builds(bytes.__add__, heads, st.binary(max_size=200)) | _damaged()


@settings(max_examples=300, deadline=None)
@given(noise, st.data())
def test_noise_is_wrong_or_not_all_there_or_a_hello_and_stays_that(data: bytes, draw: st.DataObject) -> None:
    have = draw.draw(st.integers(0, len(data)))
    begin, whole = error_of(data[:have]), error_of(data)
    if begin:
        assert whole
        assert type(whole) is type(begin)
        return
    answer = parse_client_hello(data[:have])
    if isinstance(answer, tuple):
        assert parse_client_hello(data) == answer
    elif len(data) < answer.total:
        assert whole or isinstance(parse_client_hello(data), NeedMore)


@pytest.mark.parametrize("bit", range(8))
def test_each_flipped_bit_is_borne(bit: int) -> None:
    wire = split_into_records(client_hello(server_name(b"imap.example.org"), alpn(b"imap"), ech()), [2, 50])
    for place in range(len(wire)):
        error_of(wire[:place] + bytes([wire[place] ^ 1 << bit]) + wire[place + 1 :])


def outcome(parse: Callable[[bytes], object], data: bytes) -> tuple[object, object]:
    try:
        answer = parse(data)
    except ClientHelloError as error:
        return type(error), str(error)
    return answer, answer[0].authority if isinstance(
        answer, tuple
    ) else None  # two hellos are equal without it


@settings(max_examples=1000, deadline=None)
@given(noise, st.data())
def test_the_short_way_says_what_the_long_one_does(data: bytes, draw: st.DataObject) -> None:
    data = data[: draw.draw(st.integers(0, len(data)) | st.just(len(data)))]
    assert outcome(parse_client_hello, data) == outcome(parse_in_records, data)


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize(
    "wire",
    [record(BROWSER), record(TINY), record(client_hello(server_name(b"a.b."), alpn(b"imap", b"h2"), ech()))],
)
def test_the_short_way_says_so_whatever_bit_is_flipped(wire: bytes, bit: int) -> None:
    for place in range(len(wire)):
        flipped = wire[:place] + bytes([wire[place] ^ 1 << bit]) + wire[place + 1 :]
        for data in (flipped, flipped + b"and more", flipped[:-1]):
            assert outcome(parse_client_hello, data) == outcome(parse_in_records, data)
