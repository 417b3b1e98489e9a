"""Extensions (TLVs) of PROXY headers: types and limits, facts about TLS, the checksum."""

from __future__ import annotations

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.protocol.proxy_header import (
    HEADER_MAX,
    ChecksumError,
    Client,
    Command,
    HeaderError,
    HeaderV2,
    Protocol,
    Ssl,
    Tlv,
    TlvError,
    Type,
    format_ssl,
    format_tlvs,
    format_v2,
    parse,
    parse_ssl,
    parse_tlvs,
    with_checksum,
)
from mailproxy.protocol.proxy_header.crc32c import crc32c
from tests.support.protocol.proxy_headers import (
    BINARY,
    BINARY_SSL,
    CHECK,
    FULL,
    Outcome,
    binary,
    headers_v2,
    outcome,
    read_v2,
    tlvs,
)

REGISTERED = {
    "ALPN": 0x01, "AUTHORITY": 0x02, "CRC32C": 0x03, "NOOP": 0x04, "UNIQUE_ID": 0x05, "SSL": 0x20,
    "SSL_VERSION": 0x21, "SSL_CN": 0x22, "SSL_CIPHER": 0x23, "SSL_SIG_ALG": 0x24, "SSL_KEY_ALG": 0x25,
    "SSL_GROUP": 0x26, "SSL_SIG_SCHEME": 0x27, "SSL_CLIENT_CERT": 0x28, "NETNS": 0x30,
}  # fmt: skip


# Types, lengths and limits


def test_registered_types() -> None:
    assert {kind.name: kind.value for kind in Type} == REGISTERED


@pytest.mark.parametrize("kind", range(256))
def test_extension_of_any_type_is_kept(kind: int) -> None:
    data = bytes([kind]) + b"\0\x04imap"
    assert parse_tlvs(data) == (Tlv(kind, b"imap"),)
    assert format_tlvs([Tlv(kind, b"imap")]) == data


def test_order_repetition_and_padding_are_kept() -> None:
    data = bytes.fromhex("040000 010003 617069 040002 0000 e00000 040000 010000")
    assert parse_tlvs(data) == (
        Tlv(Type.NOOP, b""), Tlv(Type.ALPN, b"api"), Tlv(Type.NOOP, b"\0\0"), Tlv(0xE0, b""),
        Tlv(Type.NOOP, b""), Tlv(Type.ALPN, b""),
    )  # fmt: skip
    assert format_tlvs(parse_tlvs(data)) == data


def test_empty_extensions() -> None:
    assert parse_tlvs(b"") == ()
    assert format_tlvs(()) == b""


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ("01", "1 bytes are left"),
        ("0100", "2 bytes are left"),
        ("010001", "0x01 has 1 bytes, and 0 are left"),
        ("e1ffff 00", "0xe1 has 65535 bytes, and 1 are left"),
        ("040000 05", "1 bytes are left"),
        ("040001 05 010002 61", "0x01 has 2 bytes, and 1 are left"),
    ],
)
def test_extensions_must_end_with_the_header(data: str, fault: str) -> None:
    with pytest.raises(TlvError, match=fault):
        parse_tlvs(bytes.fromhex(data))
    with pytest.raises(TlvError, match=fault):
        parse(binary(bytes(12) + bytes.fromhex(data)))


def test_extension_beyond_the_header_is_refused() -> None:
    with pytest.raises(TlvError):
        parse(binary(bytes(12) + b"\x01\0\x04", length=15) + b"imap")


@pytest.mark.parametrize(
    ("kind", "valid", "invalid"),
    [
        (Type.UNIQUE_ID, [0, 1, 128], [129, 1000]),
        (Type.AUTHORITY, [0, 1, 255], [256, 1000]),
        (Type.CRC32C, [4], [0, 3, 5, 8]),
        (Type.SSL_CLIENT_CERT, [0, 4096, 0xFFFF], []),
        (Type.NOOP, [0, 0xFFFF], []),
    ],
)
def test_length_limits_hold_for_reading_and_writing(kind: Type, valid: list[int], invalid: list[int]) -> None:
    def encoded(length: int) -> bytes:
        return bytes([kind]) + length.to_bytes(2, "big") + bytes(length)

    for length in valid:
        assert parse_tlvs(encoded(length)) == (Tlv(kind, bytes(length)),)
        assert format_tlvs([Tlv(kind, bytes(length))]) == encoded(length)
    for length in invalid:
        with pytest.raises(TlvError, match=f"{length} bytes"):
            parse_tlvs(encoded(length))
        with pytest.raises(TlvError, match=f"{length} bytes"):
            format_tlvs([Tlv(kind, bytes(length))])


@pytest.mark.parametrize("tlv", [Tlv(0xE0, bytes(0x10000)), Tlv(0x100, b""), Tlv(-1, b"")], ids=repr)
def test_invalid_extension_is_not_written(tlv: Tlv) -> None:
    with pytest.raises(TlvError):
        format_tlvs([tlv])


def test_repr_hides_values() -> None:
    assert repr(Tlv(5, b"secret")) == "Tlv(type=5, value=6 bytes)"


@given(tlvs)
@settings(max_examples=200, deadline=None)
def test_written_extensions_are_read_again(extensions: tuple[Tlv, ...]) -> None:
    assert parse_tlvs(format_tlvs(extensions)) == extensions


# TLS


def test_ssl_extension_of_haproxy_is_read() -> None:
    (tlv,) = read_v2(BINARY_SSL).tlvs
    ssl = parse_ssl(tlv.value)
    assert ssl == Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.3"),))
    assert format_ssl(ssl) == tlv


def test_all_extensions_of_haproxy_are_read() -> None:
    checksum, alpn, authority, unique_id, tlv = read_v2(FULL).tlvs
    assert checksum == Tlv(Type.CRC32C, bytes.fromhex("166fdc00"))
    assert alpn == Tlv(Type.ALPN, b"imap")
    assert authority == Tlv(Type.AUTHORITY, b"imap.example.com")
    assert unique_id == Tlv(Type.UNIQUE_ID, b"7F000001:8D4C")
    ssl = parse_ssl(tlv.value)
    assert ssl == Ssl(
        client=Client.SSL | Client.CERT_CONN | Client.CERT_SESS,
        verify=0,
        extensions=(
            Tlv(Type.SSL_VERSION, b"TLSv1.3"),
            Tlv(Type.SSL_CN, b"alice@example.com"),
            Tlv(Type.SSL_KEY_ALG, b"RSA2048"),
            Tlv(Type.SSL_SIG_ALG, b"RSA-SHA256"),
            Tlv(Type.SSL_CIPHER, b"TLS_AES_256_GCM_SHA384"),
        ),
    )
    assert format_ssl(ssl) == tlv


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Type.SSL_GROUP, b"X25519MLKEM768"),
        (Type.SSL_SIG_SCHEME, b"ecdsa_secp256r1_sha256"),
        (Type.SSL_CLIENT_CERT, b"\x30\x82\x0f\xfc" + bytes(4092)),
    ],
)
def test_extensions_of_2025_are_read(kind: Type, value: bytes) -> None:
    ssl = Ssl(client=Client.SSL, verify=1, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.3"), Tlv(kind, value)))
    header = evolve(read_v2(BINARY), tlvs=(format_ssl(ssl),))
    (tlv,) = read_v2(format_v2(header)).tlvs
    assert parse_ssl(tlv.value) == ssl
    assert parse_ssl(tlv.value).value_of(kind) == value


def test_first_value_of_a_type_is_used() -> None:
    ssl = Ssl(
        client=Client.SSL,
        verify=0,
        extensions=(Tlv(Type.NOOP, b""), Tlv(Type.SSL_CN, b"alice"), Tlv(Type.SSL_CN, b"mallory")),
    )
    assert ssl.value_of(Type.SSL_CN) == b"alice"
    assert ssl.value_of(Type.NOOP) == b""
    assert ssl.value_of(Type.SSL_CIPHER) is None


@pytest.mark.parametrize("client", [0, 1, 2, 3, 7, 0x80, 0xFF])
@pytest.mark.parametrize("verify", [0, 1, 10, 0xFFFFFFFF])
def test_unknown_bits_of_client_and_verify_are_kept(client: int, verify: int) -> None:
    value = bytes([client]) + verify.to_bytes(4, "big")
    ssl = parse_ssl(value)
    assert (ssl.client, ssl.verify, ssl.extensions) == (client, verify, ())
    assert (Client.SSL in ssl.client) == bool(client & 1)
    assert format_ssl(ssl) == Tlv(Type.SSL, value)


@pytest.mark.parametrize("value", ["", "01", "01000000", "0100000000 21", "0100000000 210007 544c53"])
def test_broken_ssl_extension_fails_in_parse_ssl_only(value: str) -> None:
    tlv = Tlv(Type.SSL, bytes.fromhex(value))
    assert read_v2(binary(bytes(12) + format_tlvs([tlv]))).tlvs == (tlv,)
    with pytest.raises(TlvError):
        parse_ssl(tlv.value)


@pytest.mark.parametrize(
    "ssl",
    [
        Ssl(client=Client(0x100), verify=0),
        Ssl(client=Client.SSL, verify=-1),
        Ssl(client=Client.SSL, verify=2**32),
        Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_CN, bytes(0x10000)),)),
    ],
    ids=["client", "negative verify", "verify", "extension"],
)
def test_invalid_ssl_extension_is_not_written(ssl: Ssl) -> None:
    with pytest.raises(TlvError):
        format_ssl(ssl)


@given(st.integers(0, 255).map(Client), st.integers(0, 2**32 - 1), tlvs)
@settings(max_examples=100, deadline=None)
def test_written_ssl_extension_is_read_again(
    client: Client, verify: int, extensions: tuple[Tlv, ...]
) -> None:
    ssl = Ssl(client=client, verify=verify, extensions=extensions)
    assert parse_ssl(format_ssl(ssl).value) == ssl


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_noise_in_ssl_extension_is_refused_or_kept(value: bytes) -> None:
    try:
        ssl = parse_ssl(value)
    except TlvError:
        return
    assert format_ssl(ssl) == Tlv(Type.SSL, value)


# The checksum


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
    ids=["nothing", "check value", "zeroes", "ones", "incrementing", "decrementing"],
)
def test_checksums_of_rfc_3720_appendix_b_4(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_checksum_matches_haproxy() -> None:
    header = read_v2(FULL)
    assert crc32c(FULL.replace(bytes.fromhex("166fdc00"), bytes(4))) == 0x166FDC00
    unsummed = evolve(header, tlvs=header.tlvs[1:])
    assert format_v2(with_checksum(unsummed)) == FULL
    assert with_checksum(header) == header


def test_checksum_may_be_any_of_the_extensions() -> None:
    for index in range(3):
        data = bytearray(binary(bytes(12) + b"\x04\0\x01x" * index + b"\x03\0\x04\0\0\0\0" + b"\xe0\0\x02hi"))
        start = 16 + 12 + 4 * index + 3
        data[start : start + 4] = crc32c(bytes(data)).to_bytes(4, "big")
        assert read_v2(bytes(data)).tlvs[index].type == Type.CRC32C
        data[start + 3] ^= 1
        with pytest.raises(ChecksumError):
            parse(bytes(data))


def test_wrong_checksum_error_names_both_values() -> None:
    with pytest.raises(ChecksumError, match="says 166fdc01, its checksum is 166fdc00"):
        parse(FULL.replace(bytes.fromhex("166fdc00"), bytes.fromhex("166fdc01")))


def test_two_checksums_are_refused() -> None:
    (checksum, *_) = read_v2(FULL).tlvs
    for second in (checksum, Tlv(Type.CRC32C, bytes(4))):
        with pytest.raises(TlvError, match="2 checksums"):
            parse(format_v2(evolve(read_v2(FULL), tlvs=(checksum, second))))


def test_wrong_checksum_is_replaced() -> None:
    invalid = evolve(
        read_v2(FULL), tlvs=(Tlv(Type.CRC32C, b"nope"), *read_v2(FULL).tlvs, Tlv(Type.CRC32C, b"nope"))
    )
    assert format_v2(with_checksum(invalid)) == FULL


@pytest.mark.parametrize(
    "header",
    [
        HeaderV2(command=Command.LOCAL),
        HeaderV2(command=Command.LOCAL, protocol=Protocol.TCP4, block=BINARY[16:]),
        HeaderV2(command=Command.PROXY, block=b"noise"),
    ],
    ids=["LOCAL", "LOCAL with a block", "UNSPEC"],
)
def test_header_without_extensions_gets_no_checksum(header: HeaderV2) -> None:
    assert with_checksum(header) == header
    assert read_v2(CHECK) == with_checksum(read_v2(CHECK))


@given(headers_v2)
@settings(max_examples=100, deadline=None)
def test_added_checksum_is_valid(header: HeaderV2) -> None:
    assert read_v2(format_v2(with_checksum(header))) == with_checksum(header)


def test_flipped_bit_is_refused() -> None:
    def flipped(index: int, bit: int) -> Outcome:
        data = bytearray(FULL.ljust(HEADER_MAX, b"\0"))  # padded, so that a larger length finds its bytes
        data[index] ^= bit
        return outcome(bytes(data))

    accepted = {(index, bit): answer for index in range(len(FULL)) for bit in (1, 2, 4, 8, 16, 32, 64, 128)
             if isinstance(answer := flipped(index, bit), tuple)}  # fmt: skip
    # A checksum cannot detect a change to a header without addresses, or to one without a checksum.
    # LOCAL, unspecified transport, unspecified family
    without_addresses = {(12, 0x01), (13, 0x01), (13, 0x10)}
    without_checksum = {(28, bit) for bit in (1, 2, 4, 8, 16, 32, 64, 128)}  # the type of the checksum itself
    assert accepted.keys() == without_addresses | without_checksum
    assert all(accepted[index][0].endpoints is None for index in without_addresses)
    assert all(accepted[index][0].endpoints == read_v2(FULL).endpoints for index in without_checksum)


@given(st.integers(0, len(FULL) - 1), st.integers(1, 255), st.integers(0, len(FULL) - 1), st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_two_damaged_bytes_after_checksum_are_refused(first: int, one: int, second: int, other: int) -> None:
    data = bytearray(FULL)
    for index, bits in ((first, one), (second, other)):
        data[max(index, 29)] ^= bits
    if data != FULL:
        with pytest.raises(HeaderError):
            parse(bytes(data))
