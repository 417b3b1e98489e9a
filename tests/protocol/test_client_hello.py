"""The ClientHello: real and unusual ones, split at any offset, and each way to be invalid."""

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
from tests.support.timeouts import TIMEOUT_S

NAME = "imap.example.org"
BROWSER = browser_client_hello()
BROWSER_HELLO = ClientHello(server_name=NAME, alpn=(numbers(GREASE[2]), b"imap", b"h2"), has_ech=True)
TINY = client_hello_without_extensions()
READS_MAX = 60  # a client that sends one byte per record causes at most 45 reads


def read(wire: bytes) -> ClientHello:
    """Return the ClientHello that consists of exactly these bytes."""
    answer = parse_client_hello(wire)
    assert not isinstance(answer, NeedMore)
    hello, length = answer
    assert length == len(wire)
    return hello


def read_exactly(wire: bytes) -> tuple[ClientHello, int]:
    """Return the ClientHello and the number of reads, if each read gets exactly the requested bytes."""
    received = reads = 0
    while True:
        reads += 1
        answer = parse_client_hello(wire[:received])
        if not isinstance(answer, NeedMore):
            assert answer[1] == received == len(wire)
            return answer[0], reads
        assert received < answer.total <= len(wire)
        received = answer.total


def error_of(data: bytes) -> ClientHelloError | None:
    """Return the error for these bytes, or None. Other exceptions and implausible answers fail the test."""
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


# Real clients


def python_client_hello(context: ssl.SSLContext, name: str | None) -> bytes:
    """Return the first bytes of a real client, sent before any answer."""
    wire = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), wire, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return wire.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
@pytest.mark.parametrize("protocols", [(), ("imap",), ("h2", "pop3", "x" * 255)], ids=len)
@pytest.mark.parametrize(
    ("given_name", "name"),
    [
        (None, None),
        (NAME, NAME),
        ("IMAP.Example.ORG", NAME),
        ("imap.example.org.", NAME),
        ("bücher.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("192.0.2.1", None),  # an address is not sent as a name
    ],
)
def test_python_client_is_read(
    version: ssl.TLSVersion, protocols: tuple[str, ...], given_name: str | None, name: str | None
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(protocols)
    assert read(python_client_hello(context, given_name)) == ClientHello(
        server_name=name, alpn=tuple(protocol.encode() for protocol in protocols)
    )


@pytest.mark.skipif(not which("openssl"), reason="openssl is not installed")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["-servername", "IMAP.Example.Org", "-alpn", "imap,h2"],
            ClientHello(server_name=NAME, alpn=(b"imap", b"h2")),
        ),
        (["-noservername", "-tls1_2"], ClientHello()),
        (
            # Longer than the shortest records that s_client can write, so the hello of a real client takes two.
            ["-servername", NAME, "-max_send_frag", "512", "-alpn", ",".join(["x" * 99] * 5)],
            ClientHello(server_name=NAME, alpn=(b"x" * 99,) * 5),
        ),
    ],
    ids=["TLS 1.3", "TLS 1.2 without a name", "in two records"],
)
def test_openssl_client_is_read_over_a_socket(options: list[str], expected: ClientHello) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        address = "127.0.0.1:{1}".format(*listener.getsockname())
        with subprocess.Popen(
            ["openssl", "s_client", "-connect", address, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT_S)
                wire = b""
                while isinstance(answer := parse_client_hello(wire), NeedMore):
                    data = connection.recv(answer.total - len(wire))
                    assert data, "the client has closed the connection"
                    wire += data
    assert answer == (expected, len(wire))


def test_long_alpn_list_is_read() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["x" * 255] * 50)
    wire = python_client_hello(context, NAME)
    assert len(wire) > 50 * 256
    assert read(wire) == ClientHello(server_name=NAME, alpn=(b"x" * 255,) * 50)


# Unusual ClientHellos


def test_browser_hello_is_read() -> None:
    assert len(BROWSER) > 1460  # longer than a TCP segment on Ethernet
    assert read(record(BROWSER)) == BROWSER_HELLO


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ([], ClientHello()),
        ([extension(GREASE[0]), extension(GREASE[1], b"\0")], ClientHello()),
        ([extension(GREASE[0])] * 2, ClientHello()),  # only the server can judge a repeated unknown extension
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
def test_extensions_are_read(extensions: list[bytes], expected: ClientHello) -> None:
    assert read(record(client_hello(*extensions))) == expected


@pytest.mark.parametrize(
    "hello",
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
def test_irrelevant_fields_are_skipped(hello: bytes) -> None:
    assert read(record(hello)) == ClientHello()


@pytest.mark.parametrize("minor", [0, 1, 2, 3, 4, 255])
def test_minor_version_of_record_is_ignored(minor: int) -> None:
    assert read(bytes([22, 3, minor]) + vector(BROWSER, 2)) == BROWSER_HELLO


labels = st.from_regex(r"\A[A-Za-z0-9_-]{1,20}\Z")
names = st.none() | st.lists(labels, min_size=1, max_size=4).map(".".join)
protocol_lists = st.lists(st.binary(min_size=1, max_size=20), max_size=4)
unknown = st.builds(
    extension, st.integers(0, 0xFFFF).filter(lambda kind: kind not in {SERVER_NAME, ALPN, ECH}), st.binary()
)


@settings(max_examples=80, deadline=None)
@given(st.data(), names, protocol_lists, st.booleans(), st.lists(unknown, max_size=4))
def test_written_hello_is_read(
    data: st.DataObject, name: str | None, protocols: list[bytes], has_ech: bool, others: list[bytes]
) -> None:
    extensions = [
        *([server_name(name.encode())] if name else []),
        *([alpn(*protocols)] if protocols else []),
        *([ech()] if has_ech else []),
        *others,
    ]
    hello = client_hello(
        *data.draw(st.permutations(extensions)), session_id=data.draw(st.binary(max_size=32))
    )
    assert read(record(hello)) == ClientHello(
        server_name=name and name.lower(), alpn=tuple(protocols), has_ech=has_ech
    )


# Split ClientHellos


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(1, len(BROWSER) - 1), max_size=40))
def test_records_may_be_split_at_any_offset(cuts: set[int]) -> None:
    hello, reads = read_exactly(split_into_records(BROWSER, cuts))
    assert hello == BROWSER_HELLO
    assert reads < READS_MAX


@pytest.mark.parametrize("cuts", [[1], [2], [3], [4], [1, 2, 3, 4], [2, 5], [len(TINY) - 1]], ids=str)
def test_message_header_may_be_split(cuts: list[int]) -> None:
    assert read_exactly(split_into_records(TINY, cuts))[0] == ClientHello()


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 100, 1400])
def test_records_of_equal_size_are_read(size: int) -> None:
    assert read_exactly(split_into_records_of(size, BROWSER))[0] == BROWSER_HELLO


@pytest.mark.parametrize("size", [100, 500, 1000, 2730])
def test_one_byte_records_take_few_reads(size: int) -> None:
    wire = split_into_records_of(1, client_hello_of_size(size, server_name(b"a")))
    hello, reads = read_exactly(wire)
    assert hello == ClientHello(server_name="a")
    assert reads < READS_MAX


def test_number_of_reads_grows_logarithmically() -> None:
    sizes = [80, 160, 320, 640, 1280, 2560]
    reads = [read_exactly(split_into_records_of(1, client_hello_of_size(size)))[1] for size in sizes]
    increments = [after - before for before, after in pairwise(reads)]
    # For twice the length, one more read for each sixth of the bytes.
    assert max(increments) <= 6


def test_unsplit_hello_takes_three_reads() -> None:
    assert read_exactly(record(BROWSER)) == (BROWSER_HELLO, 3)  # nothing, the record's header, all bytes


CUT = {
    "one record": record(BROWSER),
    "five records": split_into_records(BROWSER, [1, 3, 600, 601]),
    "a byte per record": split_into_records_of(1, TINY),
    "no extensions": record(TINY),
    "other bytes in its last record": record(TINY + bytes(30)),
}


@pytest.mark.parametrize("wire", CUT.values(), ids=CUT.keys())
def test_incomplete_hello_needs_more(wire: bytes) -> None:
    for received in range(len(wire)):
        answer = parse_client_hello(wire[:received])
        assert isinstance(answer, NeedMore)
        assert received < answer.total <= len(wire)
    assert isinstance(parse_client_hello(wire), tuple)


@pytest.mark.parametrize("wire", CUT.values(), ids=CUT.keys())
@pytest.mark.parametrize(
    "extra",
    [b"\0", b"a1 CAPABILITY\r\n", record(b"\2\50", ALERT), record(BROWSER), b"\x16\2", bytes(2 * HELLO_MAX)],
    ids=["NUL", "clear text", "an alert", "another hello", "half a record's head", "a lot"],
)
def test_bytes_after_hello_are_ignored(wire: bytes, extra: bytes) -> None:
    assert parse_client_hello(wire + extra) == parse_client_hello(wire)


def test_bytes_after_message_in_its_record_are_consumed() -> None:
    wire = record(BROWSER + b"anything")
    assert read(wire) == BROWSER_HELLO


# Longest ClientHellos

_HEAD = 5
_RECORD_MAX = 2**14
LONGEST = client_hello_of_size(HELLO_MAX - 2 * _HEAD, server_name(b"a"))


def test_longest_hello_is_read() -> None:
    result = read_exactly(split_into_records(LONGEST, [_RECORD_MAX]))
    assert result[0] == ClientHello(server_name="a")


def test_hello_that_fills_a_record_is_read() -> None:
    full = client_hello_of_size(_RECORD_MAX, server_name(b"a"))
    assert read(record(full)) == ClientHello(server_name="a")
    longer = client_hello_of_size(_RECORD_MAX + 1, server_name(b"a"))
    assert read(split_into_records(longer, [_RECORD_MAX])) == ClientHello(server_name="a")
    with pytest.raises(ClientHelloError, match=r"^a record of 16385 bytes$"):
        parse_client_hello(record(longer))


def test_record_headers_count_towards_the_limit() -> None:
    wire = split_into_records(LONGEST, [9, 1000])
    with pytest.raises(ClientHelloError, match=f"^the hello is longer than {HELLO_MAX} bytes$"):
        parse_client_hello(wire)
    assert len(wire) == HELLO_MAX + _HEAD
    shorter = client_hello_of_size(HELLO_MAX - 3 * _HEAD)
    assert read(split_into_records(shorter, [9, 5000])) == ClientHello()


@pytest.mark.parametrize("size", [1000, 2730, 2731, 4000, 8000, HELLO_MAX - 6])
def test_requested_bytes_never_exceed_the_limit(size: int) -> None:
    """A ClientHello that cannot fit into the limit is refused as soon as its bytes show that."""
    wire = split_into_records_of(1, client_hello_of_size(size))
    fits = len(wire) <= HELLO_MAX
    assert fits is not any(error_of(wire[:received]) for received in [*range(0, HELLO_MAX, 97), HELLO_MAX])


# Invalid ones: refused at the first byte that no ClientHello has

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


@pytest.mark.parametrize(("wire", "fault"), FRAMES.values(), ids=FRAMES.keys())
def test_first_wrong_byte_is_refused(wire: bytes, fault: str) -> None:
    assert isinstance(parse_client_hello(wire[:-1]), NeedMore)
    for extra in (b"", b"\0", BROWSER, bytes(HELLO_MAX)):
        with pytest.raises(ClientHelloError) as caught:
            parse_client_hello(wire + extra)
        assert fault in str(caught.value)


@pytest.mark.parametrize(
    "data",
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
def test_other_protocol_and_invalid_tls_differ(data: bytes) -> None:
    with pytest.raises(NotTlsError):
        parse_client_hello(data)
    with pytest.raises(ClientHelloError) as caught:
        parse_client_hello(record(b"\2"))
    assert not isinstance(caught.value, NotTlsError)


def test_errors_are_client_handshake_errors() -> None:
    assert issubclass(NotTlsError, ClientHelloError)
    assert issubclass(ClientHelloError, ClientHandshakeError)


# Invalid ones: wrong contents

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
    **{f"body: {name}": (message(body), fault) for name, (body, fault) in BODIES.items()},
    **{
        f"extensions: {name}": (client_hello(invalid), fault) for name, (invalid, fault) in EXTENSIONS.items()
    },
    **{
        f"server name: {name}": (client_hello(ech(), extension(SERVER_NAME, invalid)), fault)
        for name, (invalid, fault) in SERVER_NAMES.items()
    },
    **{
        f"ALPN: {name}": (client_hello(extension(ALPN, invalid), server_name(b"a")), fault)
        for name, (invalid, fault) in PROTOCOLS.items()
    },
}


@pytest.mark.parametrize(("invalid", "fault"), CONTENTS.values(), ids=CONTENTS.keys())
def test_error_names_the_fault(invalid: bytes, fault: str) -> None:
    for wire in (record(invalid), split_into_records_of(7, invalid), record(invalid) + record(BROWSER)):
        with pytest.raises(ClientHelloError) as caught:
            parse_client_hello(wire)
        assert str(caught.value) == fault
        assert not isinstance(caught.value, NotTlsError)


@pytest.mark.parametrize(("invalid", "fault"), CONTENTS.values(), ids=CONTENTS.keys())
def test_bytes_after_invalid_hello_do_not_complete_it(invalid: bytes, fault: str) -> None:
    """No length reads bytes after the message, even those of the same record."""
    with pytest.raises(ClientHelloError, match=f"^{fault}$"):
        parse_client_hello(record(invalid + bytes(300)))


# Noise

prefixes = st.sampled_from(
    [b"", b"\x16", b"\x16\3\1", b"\x16\3\1\0\x40", b"\x16\3\1\0\x40\1\0\0\x3c", record(BROWSER[:60])]
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Return a ClientHello with changed bytes, before or after it was split into records."""
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


noise = st.builds(bytes.__add__, prefixes, st.binary(max_size=200)) | _damaged()


@settings(max_examples=300, deadline=None)
@given(noise, st.data())
def test_verdict_on_noise_is_final(data: bytes, draw: st.DataObject) -> None:
    received = draw.draw(st.integers(0, len(data)))
    first_error, final_error = error_of(data[:received]), error_of(data)
    if first_error:
        assert final_error
        assert type(final_error) is type(first_error)
        return
    answer = parse_client_hello(data[:received])
    if isinstance(answer, tuple):
        assert parse_client_hello(data) == answer
    elif len(data) < answer.total:
        assert final_error or isinstance(parse_client_hello(data), NeedMore)


@pytest.mark.parametrize("bit", range(8))
def test_flipped_bits_raise_no_other_error(bit: int) -> None:
    wire = split_into_records(client_hello(server_name(b"imap.example.org"), alpn(b"imap"), ech()), [2, 50])
    for offset in range(len(wire)):
        error_of(wire[:offset] + bytes([wire[offset] ^ 1 << bit]) + wire[offset + 1 :])


def outcome(parse: Callable[[bytes], object], data: bytes) -> tuple[object, object]:
    try:
        answer = parse(data)
    except ClientHelloError as error:
        return type(error), str(error)
    # The comparison of two ClientHellos ignores the authority.
    return answer, answer[0].authority if isinstance(answer, tuple) else None


@settings(max_examples=1000, deadline=None)
@given(noise, st.data())
def test_fast_path_equals_record_parser(data: bytes, draw: st.DataObject) -> None:
    data = data[: draw.draw(st.integers(0, len(data)) | st.just(len(data)))]
    assert outcome(parse_client_hello, data) == outcome(parse_in_records, data)


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize(
    "wire",
    [record(BROWSER), record(TINY), record(client_hello(server_name(b"a.b."), alpn(b"imap", b"h2"), ech()))],
)
def test_fast_path_equals_record_parser_for_flipped_bits(wire: bytes, bit: int) -> None:
    for offset in range(len(wire)):
        flipped = wire[:offset] + bytes([wire[offset] ^ 1 << bit]) + wire[offset + 1 :]
        for data in (flipped, flipped + b"and more", flipped[:-1]):
            assert outcome(parse_client_hello, data) == outcome(parse_in_records, data)
