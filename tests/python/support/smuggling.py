"""Requests that a proxy may read in another way than the server, and the answers that are right.

A smuggled request would be one more answer on the connection, and a line in the log: every request that is hidden in
another one is for an address that nothing else asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

from support.http_server import HEAD

HIDDEN = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
POST = b"POST /v1/challenges HTTP/1.1\r\nhost: x\r\n"
JSON = b"content-type: application/json\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"


def length(size: int) -> bytes:
    return b"content-length: %d\r\n" % size


# What each sends, in parts, and which answers are right. A refusal always ends the connection.
CORPUS: dict[str, tuple[Sequence[bytes], Sequence[int]]] = {
    # CL.TE, TE.CL, TE.TE
    "both lengths": ([POST + JSON + length(4) + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN], [400]),
    "both lengths, the other order": ([POST + JSON + CHUNKED + length(4) + b"\r\n0\r\n\r\n" + HIDDEN], [400]),
    "both lengths, chunks first": (
        [POST + JSON + CHUNKED + length(4) + b"\r\n%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n0\r\n\r\n"],
        [400],
    ),
    "an encoding that is not known": (
        [POST + JSON + b"transfer-encoding: xchunked\r\n" + length(4) + b"\r\n{}  " + HIDDEN],
        [400],
    ),
    "chunked twice": ([POST + JSON + CHUNKED + CHUNKED + b"\r\n2\r\n{}\r\n0\r\n\r\n" + HIDDEN], [400]),
    "chunked and identity": (
        [POST + JSON + CHUNKED + b"transfer-encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    "a space before the colon": (
        [POST + JSON + b"transfer-encoding : chunked\r\n" + length(5) + b"\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    "a vertical tab in the encoding": (
        [POST + JSON + b"transfer-encoding: \x0bchunked\r\n" + length(5) + b"\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    "a zero byte in the encoding": (
        [POST + JSON + b"transfer-encoding: chunked\x00\r\n" + length(5) + b"\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    "chunks in HTTP/1.0": (
        [POST.replace(b"1.1", b"1.0") + JSON + CHUNKED + b"connection: keep-alive\r\n\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    # lengths
    "two lengths": ([POST + JSON + length(2) + length(2 + len(HIDDEN)) + b"\r\n{}" + HIDDEN], [400]),
    "a list of two lengths": ([POST + JSON + b"content-length: 2, 36\r\n\r\n{}" + HIDDEN], [400]),
    "a length with a sign": ([POST + JSON + b"content-length: +2\r\n\r\n{}" + HIDDEN], [400]),
    "a negative length": ([POST + JSON + b"content-length: -2\r\n\r\n{}" + HIDDEN], [400]),
    "a length in hexadecimal": ([POST + JSON + b"content-length: 0x2\r\n\r\n{}" + HIDDEN], [400]),
    "a length with an underscore": ([POST + JSON + b"content-length: 1_0\r\n\r\n{}" + HIDDEN], [400]),
    # upgrades
    "an upgrade with a late body": (
        [POST + JSON + b"connection: Upgrade\r\nupgrade: foo\r\n" + length(len(HIDDEN)) + b"\r\n", HIDDEN],
        [400],
    ),
    "an upgrade to h2c with a late body": (
        [
            POST + JSON + b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
            + length(len(HIDDEN)) + b"\r\n", HIDDEN,
        ],
        [400],
    ),
    "an upgrade to a web socket": (
        [b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n" + HIDDEN],
        [200],
    ),
    "an upgrade that is not named in Connection": ([POST + JSON + b"upgrade: foo\r\n" + length(2) + b"\r\n{}" + HIDDEN], [201]),
    "CONNECT": ([b"CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n" + HIDDEN], [404]),
    "the preface of HTTP/2": ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN], [400]),
    # line ends and folds
    "a folded encoding": (
        [POST + JSON + b"transfer-encoding:\r\n chunked\r\n" + length(5) + b"\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    "a fold before the first header": ([b"GET /healthz HTTP/1.1\r\n x: y\r\nhost: x\r\n\r\n" + HIDDEN], [400]),
    "a bare LF before the encoding": (
        [POST + JSON + b"x: y\n" + CHUNKED + length(5) + b"\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    "a bare CR in a header": ([POST + JSON + b"x: y\r" + CHUNKED + length(5) + b"\r\n0\r\n\r\n" + HIDDEN], [400]),
    "a bare LF after a chunk's size": ([POST + JSON + CHUNKED + b"\r\n2\n{}\r\n0\r\n\r\n" + HIDDEN], [400]),
    "a bare LF after a chunk": ([POST + JSON + CHUNKED + b"\r\n2\r\n{}\n0\r\n\r\n" + HIDDEN], [400]),
    # chunks
    "a chunk's size with a sign": ([POST + JSON + CHUNKED + b"\r\n+2\r\n{}\r\n0\r\n\r\n" + HIDDEN], [400]),
    "a chunk's size with a prefix": ([POST + JSON + CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n" + HIDDEN], [400]),
    # All that follows belongs to the chunk, which never ends.
    "a chunk's size beyond 64 bits": ([POST + JSON + CHUNKED + b"\r\n10000000000000002\r\n{}\r\n0\r\n\r\n" + HIDDEN], []),
    "a chunk's size that is too long to be one": ([POST + JSON + CHUNKED + b"\r\n" + b"0" * 30 + b"2\r\n{}\r\n"], [400]),
    "a chunk with two bytes too many": ([POST + JSON + CHUNKED + b"\r\n2\r\n{}XY0\r\n\r\n" + HIDDEN], [400]),
    "a bare LF in a chunk's extension": (
        [POST + JSON + CHUNKED + b"\r\n2;x\n\r\n{}\r\n0\r\n\r\n" + HIDDEN],
        [400],
    ),
    # heads
    "no Host": ([b"GET /healthz HTTP/1.1\r\n\r\n" + HIDDEN], [400]),
    "two Hosts": ([b"GET /healthz HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n" + HIDDEN], [400]),
    "a space in the address": ([b"GET /healthz /x HTTP/1.1\r\nhost: x\r\n\r\n" + HIDDEN], [400]),
    "a header without a name": ([b"GET /healthz HTTP/1.1\r\nhost: x\r\n: y\r\n\r\n" + HIDDEN], [400]),
    # bodies that nobody reads
    "a body for a route that has none": (
        [b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + length(len(HIDDEN)) + b"\r\n" + HIDDEN],
        [200],
    ),
    "a late body for a route that has none": (
        [b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + length(len(HIDDEN)) + b"\r\n", HIDDEN],
        [200],
    ),
    "a late body that is refused by its type": (
        [POST + b"content-type: text/plain\r\n" + length(len(HIDDEN)) + b"\r\n", HIDDEN],
        [415],
    ),
    "a late body that is too large": ([HEAD + length(1 << 30) + b"\r\n", HIDDEN], [413]),
}  # fmt: skip

# What may look odd and has one meaning (RFC 9112): the last request is the hidden one, and gets its answer.
GOOD: dict[str, tuple[Sequence[bytes], Sequence[int]]] = {
    "a late body": ([HEAD + length(2) + b"\r\n", b"{}" + HIDDEN], [201, 404]),
    "Connection: upgrade without an upgrade, and a late body": (
        [HEAD + b"connection: upgrade\r\n" + length(2) + b"\r\n", b"{}" + HIDDEN],
        [201, 404],
    ),
    "a body in pieces": ([HEAD + length(2) + b"\r\n", b"{", b"}" + HIDDEN], [201, 404]),
    "chunks with extensions": (
        [HEAD + CHUNKED + b'\r\n1;a=b\r\n{\r\n1;c="d"\r\n}\r\n0;e\r\n\r\n' + HIDDEN],
        [201, 404],
    ),
    "chunks with trailers": ([HEAD + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nx: y\r\n\r\n" + HIDDEN], [201, 404]),
    "the same length twice": ([HEAD + length(2) + length(2) + b"\r\n{}" + HIDDEN], [201, 404]),
    "a body that looks like a request": ([HEAD + length(len(HIDDEN)) + b"\r\n" + HIDDEN + HIDDEN], [400, 404]),
    "requests after another": ([(HEAD + length(2) + b"\r\n{}") * 5 + HIDDEN], [201] * 5 + [404]),
    "a fold in a header": ([HEAD + b"x: y\r\n z\r\n" + length(2) + b"\r\n{}" + HIDDEN], [201, 404]),
    "line ends of LF alone": ([b"GET /healthz HTTP/1.1\nhost: x\n\n" + HIDDEN], [200, 404]),
}
