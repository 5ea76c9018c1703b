"""Makes the vectors of the app configuration, tests/vectors/app_config.json.

    python tools/vectors/make_app_config_vectors.py [--out tests/vectors]

Keys are fixed, so two runs write the same bytes. Nothing here is the package's: what is expected stands here by hand.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any

from license_forge import NEXT_SERVICE, SERVICE, base64url, jwk, key, nested, thumbprint

PUBLISHER = key("publisher")
GOOD: dict[str, Any] = {
    "format": "corelocker-app-config",
    "version": "1.0",
    "service": "https://unlock.example.com",
    "issuer": "https://unlock.example.com",
    "app": "com.example.camera",
    "environment": "production",
    "license_keys": {"keys": [jwk(SERVICE)]},
    "publisher": thumbprint(PUBLISHER),
}
TEXT = json.dumps(GOOD)
REFUSED = "app-config"


def file_of(**changes: Any) -> bytes:
    """The good file with changes; a member that is None is left out."""
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not None}).encode()


def vector(name: str, comment: str, file: bytes, expect: str = "ok", **values: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "comment": comment, "file": base64.b64encode(file).decode(), "expect": expect}
    if expect == "ok":
        read = {name: GOOD[name] for name in ("service", "issuer", "app", "environment", "publisher")}
        made["values"] = read | {"license_keys": [thumbprint(SERVICE)], "offline_grace": 0} | values
    return made


def accepted() -> list[dict[str, Any]]:
    def changed(name: str, comment: str, **changes: Any) -> dict[str, Any]:
        values = {name: value for name, value in changes.items() if name in {*GOOD, "offline_grace"} - {"version"}}
        return vector(name, comment, file_of(**changes), **values)

    development = {"environment": "development", "service": "http://10.0.2.2:8700"}
    sixteen = {f"m{n}": n for n in range(16)}
    return [
        vector("minimal", "offline_grace is absent", TEXT.encode()),
        vector("white-space", "JSON may hold white space", b" \t\r\n" + json.dumps(GOOD, indent=2).encode() + b"\n"),
        changed("later-minor", "another minor version", version="1.999999"),
        vector(
            "unknown-members",
            "members of a later version are ignored",
            file_of(extra=[True, None, nested(30)], **sixteen),
        ),
        changed("grace", "a day of offline grace", offline_grace=86400),
        changed("grace-longest", "a year of it", offline_grace=31_536_000),
        changed("development", "http in development", **development),
        changed("development-https", "https in development", environment="development"),
        changed(
            "service-slash", "a slash at the end; /v1/challenges follows the host", service="https://u.example.com/"
        ),
        changed("service-path", "a path", service="https://example.com/core_locker/~v1.2/a%20b"),
        changed("service-port", "the highest port", service="https://example.com:65535"),
        changed("service-ipv6", "an IPv6 address", service="https://[2001:db8::1]:8443/x"),
        changed("service-longest", "2,048 characters", service="https://example.com/" + "p" * 2028),
        changed("texts-longest", "256 code points", issuer="\U0001f511" * 256, app="a\u0308" * 128),
        vector(
            "two-keys",
            "the keys of today and tomorrow",
            file_of(license_keys={"keys": [jwk(SERVICE), jwk(NEXT_SERVICE)]}),
            license_keys=[thumbprint(SERVICE), thumbprint(NEXT_SERVICE)],
        ),
        vector(
            "eight-keys",
            "as many as there may be",
            file_of(license_keys={"keys": [jwk(key(f"service {n}")) for n in range(8)]}),
            license_keys=[thumbprint(key(f"service {n}")) for n in range(8)],
        ),
        changed("texts-plain", "their neighbors are plain", app="\x20\x7e\xa0\u200d\u2010\u2027\u202f\u2065\u206a"),
        vector("key-twice", "counts once", file_of(license_keys={"keys": [jwk(SERVICE), jwk(SERVICE)]})),
        vector(
            "key-members",
            "other members of a JWK and of the set are ignored",
            file_of(license_keys={"keys": [jwk(SERVICE) | {"kid": "x", "use": "sig", "alg": "ES256"}], "note": 1}),
        ),
    ]


def refused_json() -> list[dict[str, Any]]:
    def text(name: str, comment: str, file: bytes | str) -> dict[str, Any]:
        return vector(name, comment, file if isinstance(file, bytes) else file.encode(), REFUSED)

    return [
        text("empty", "no bytes", b""),
        text("list", "no object", "[]"),
        text("trailing", "something follows", TEXT + "x"),
        text("truncated", "cut off", TEXT[:-1]),
        text("byte-order-mark", "a byte order mark", b"\xef\xbb\xbf" + TEXT.encode()),
        text("not-utf8", "a byte that is not UTF-8", TEXT.encode().replace(b"camera", b"camer\xe9")),
        text("utf8-surrogate", "half a surrogate pair in UTF-8", TEXT.encode().replace(b"camera", b"\xed\xa0\x80")),
        text("escaped-surrogate", "half a surrogate pair as an escape", TEXT.replace("camera", "\\ud800")),
        text("escaped-low-surrogate", "the other half alone", TEXT.replace("camera", "\\udc00")),
        text("escaped-surrogates-swapped", "the halves in the wrong order", TEXT.replace("camera", "\\udc00\\ud800")),
        text("form-feed", "white space that is none in JSON", "\f" + TEXT),
        text("no-break-space", "nor is U+00A0", TEXT + "\u00a0"),
        text("name-twice", "app twice", TEXT[:-1] + ', "app": "com.example.camera"}'),
        text("name-twice-deep", "twice inside a member that is ignored", TEXT[:-1] + ', "x": [{"a": 1, "a": 1}]}'),
        text("fraction", "a fraction in a member that is ignored", TEXT[:-1] + ', "x": 1.0}'),
        text("large-integer", "2^53 in a member that is ignored", TEXT[:-1] + ', "x": 9007199254740992}'),
        text("nan", "NaN is not JSON", TEXT[:-1] + ', "x": NaN}'),
        text("comma", "a comma after the last member", TEXT[:-1] + ",}"),
        text("comment", "a comment", TEXT + "// x"),
        vector("too-deep", "33 levels in a member that is ignored", file_of(x=nested(32)), REFUSED),
        text("too-large", "65,537 bytes", TEXT + " " * (65_537 - len(TEXT))),
    ]


def changed(name: str, comment: str, **changes: Any) -> dict[str, Any]:
    """The good file with changes, which is refused."""
    return vector(name, comment, file_of(**changes), REFUSED)


def refused_members() -> list[dict[str, Any]]:
    return [
        *(changed(f"no-{name}", f"{name} is missing", **{name: None}) for name in GOOD),
        *(changed(f"{name}-number", f"{name} is a number", **{name: 1}) for name in GOOD),
        changed("other-format", "another kind of file", format="corelocker-keystore"),
        changed("version-2", "another major version", version="2.0"),
        changed("version-short", "no minor version", version="1"),
        changed("version-long", "seven digits", version="1.1000000"),
        changed("version-text", "no number", version="1.x"),
        changed("issuer-empty", "an empty text", issuer=""),
        changed("issuer-long", "257 code points", issuer="\U0001f511" * 257),
        changed("app-control", "a control character", app="com.example\x00"),
        changed("app-c1-control", "U+0085", app="com.example\x85"),
        changed("app-direction", "U+202E turns the direction of writing", app="com.\u202eexample"),
        changed("app-separator", "U+2028", app="com.\u2028example"),
        changed("app-delete", "U+007F", app="com.\x7fexample"),
        changed("app-mark", "U+200F", app="com.\u200fexample"),
        changed("app-isolate", "U+2069", app="com.\u2069example"),
        changed("environment-staging", "an environment that does not exist", environment="staging"),
        changed("grace-negative", "a negative grace", offline_grace=-1),
        changed("grace-long", "more than a year", offline_grace=31_536_001),
        changed("grace-text", "grace is a text", offline_grace="86400"),
        vector(
            "grace-null", "null is not the same as absent", (TEXT[:-1] + ', "offline_grace": null}').encode(), REFUSED
        ),
        changed("grace-true", "true is no number", offline_grace=True),
        changed("publisher-short", "42 characters", publisher=thumbprint(PUBLISHER)[:-1]),
        changed("publisher-padded", "base64 padding", publisher=thumbprint(PUBLISHER) + "="),
        changed("publisher-left-over", "bits that no byte takes", publisher="A" * 42 + "B"),
        changed("publisher-base64", "the other alphabet", publisher="+" * 42 + "A"),
    ]


def refused_urls() -> list[dict[str, Any]]:
    def served(name: str, comment: str, url: str, **changes: Any) -> dict[str, Any]:
        return changed(f"service-{name}", comment, service=url, **changes)

    return [
        served("http", "http in production", "http://unlock.example.com"),
        served("query", "a query", "https://unlock.example.com/?a=b"),
        served("fragment", "a fragment", "https://unlock.example.com/#a"),
        served("user", "a user", "https://user@unlock.example.com/"),
        served("scheme", "another scheme", "ftp://unlock.example.com", environment="development"),
        served("scheme-case", "the scheme is in lowercase", "HTTPS://unlock.example.com"),
        served("no-scheme", "no scheme", "unlock.example.com"),
        served("no-host", "no host", "https:///v1"),
        served("space", "a space", "https://unlock.example.com/a b"),
        served("line-feed", "a line feed at the end", "https://unlock.example.com\n"),
        served("backslash", "a backslash", "https://unlock.example.com\\@example.org"),
        served("not-ascii", "a host beyond ASCII", "https://größe.example.com"),
        served("half-ipv6", "half an IPv6 address", "https://[::1"),
        served("port-zero", "port 0", "https://unlock.example.com:0"),
        served("port-large", "port 65,536", "https://unlock.example.com:65536"),
        served("port-empty", "a colon without a port", "https://unlock.example.com:"),
        served("long", "2,049 characters", "https://example.com/" + "p" * 2029),
    ]


def refused_keys() -> list[dict[str, Any]]:
    def with_key(name: str, comment: str, value: Any) -> dict[str, Any]:
        return changed(name, comment, license_keys={"keys": [value]})

    good = jwk(SERVICE)
    off_curve = good | {"y": jwk(NEXT_SERVICE)["y"]}
    return [
        changed("keys-list", "a list of JWKs, not a set", license_keys=[good]),
        changed("keys-empty", "no key", license_keys={"keys": []}),
        changed("keys-nine", "nine keys", license_keys={"keys": [jwk(key(f"service {n}")) for n in range(9)]}),
        changed("keys-nine-times", "one key nine times", license_keys={"keys": [good] * 9}),
        changed("keys-text", "a key that is no object", license_keys={"keys": ["x"]}),
        with_key("key-private", "a private key", jwk(SERVICE, secret=True)),
        with_key("key-p384", "another curve", good | {"crv": "P-384"}),
        with_key("key-okp", "another kind of key", {"kty": "OKP", "crv": "Ed25519", "x": good["x"]}),
        with_key("key-off-curve", "no point of the curve", off_curve),
        with_key("key-zero", "x = y = 0", good | {"x": base64url(bytes(32)), "y": base64url(bytes(32))}),
        with_key(
            "key-short", "x has 31 bytes", good | {"x": base64url(base64.urlsafe_b64decode(good["x"] + "=")[:-1])}
        ),
        with_key("key-padded", "x has padding", good | {"x": good["x"] + "="}),
        with_key("key-no-y", "y is missing", {name: good[name] for name in ("kty", "crv", "x")}),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/vectors"))
    out: Path = parser.parse_args().out
    content = {
        "description": (
            "App configurations (docs/formats.md, App configuration and JSON). Read `file` (base64): `expect` is ok or the "
            "code of the error. With ok, `values` is what was read; `license_keys` are the keys' thumbprints in their order."
        ),
        "vectors": [*accepted(), *refused_json(), *refused_members(), *refused_urls(), *refused_keys()],
    }
    names = [made["name"] for made in content["vectors"]]
    assert len(set(names)) == len(names)
    out.mkdir(parents=True, exist_ok=True)
    (out / "app_config.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
