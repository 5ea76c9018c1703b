"""A local server that speaks Google's documented APIs of purchases and of Play Integrity.

Paths and field names are those of the discovery documents.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jws
from joserfc.jwk import RSAKey

DISCOVERY = json.loads(
    (Path(__file__).parents[3] / "tests/vectors/purchases/play/androidpublisher.v3.purchases.json").read_text()
)
SCOPES = {"https://www.googleapis.com/auth/androidpublisher", "https://www.googleapis.com/auth/playintegrity"}
# One RSA key for all tests: they are slow to make.
ACCOUNT_KEY = rsa.generate_private_key(65537, 2048)
GOOGLE_KEY = rsa.generate_private_key(65537, 2048)


@dataclass
class Call:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


Reply = tuple[int, dict[str, str], bytes]


def json_reply(value: object, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json; charset=UTF-8"}, json.dumps(value).encode()


def error_reply(status: int, reason: str = "backendError", headers: dict[str, str] | None = None) -> Reply:
    error = {"error": {"code": status, "message": reason, "errors": [{"reason": reason, "domain": "global"}]}}
    answer = json_reply(error, status)
    return status, answer[1] | (headers or {}), answer[2]


@contextmanager
def http_server(answer: Callable[[Call], Reply | Callable[[Any], None]]) -> Iterator[str]:
    """Serve on loopback; `answer` gives a reply, or a function that writes to the socket by itself."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_call(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            given = answer(Call(self.command, url.path, query, headers, body))
            if callable(given):
                self.close_connection = True
                given(self.wfile)
                return
            status, headers, content = given
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = handle_call  # noqa: N815

        def handle_one_request(self) -> None:
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def service_account(url: str) -> dict[str, str]:
    """The key file of a service account that signs in at this server."""
    pem = ACCOUNT_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "type": "service_account",
        "client_email": "unlock@project.iam.gserviceaccount.com",
        "private_key": pem.decode(),
        "private_key_id": "1",
        "token_uri": f"{url}/token",
    }


@dataclass
class PlayServer:
    """What Google knows: purchases by token, voided orders, verdicts by token; and how it misbehaves, by path."""

    products: dict[str, dict[str, Any]] = field(default_factory=dict)
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    voided: list[dict[str, Any]] = field(default_factory=list)
    # Integrity token -> `tokenPayloadExternal`.
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    page_size: int = 2
    calls: list[Call] = field(default_factory=list)
    # Path pattern -> what to answer in place of the truth.
    failures: dict[str, Callable[[Call], Reply | Callable[[Any], None]]] = field(default_factory=dict)
    signed_in: set[str] = field(default_factory=set)
    package: str = "com.example.camera"

    def answer(self, call: Call) -> Reply | Callable[[Any], None]:
        self.calls.append(call)
        for pattern, failure in self.failures.items():
            if re.search(pattern, call.path):
                return failure(call)
        if call.path == "/certs":
            return json_reply(
                {"keys": [RSAKey.import_key(GOOGLE_KEY).as_dict(private=False, kid="google-1", use="sig")]}
            )
        if call.path == "/token":
            return self._sign_in(call)
        access = call.headers.get("authorization", "").removeprefix("Bearer ")
        if access not in self.signed_in:
            return error_reply(401, "authError")
        if access.startswith("ya29.playintegrity") != call.path.startswith("/v1/"):
            return error_reply(403, "insufficientPermissions")
        if call.path.startswith("/v1/"):
            return self._decode(call)
        for name, method in documented_methods():
            found = re.fullmatch(pattern_of(method["flatPath"]), call.path)
            if found and method["httpMethod"] == call.method:
                assert set(call.query) <= set(method["parameters"]), call.query
                parameters = {key: unquote(value) for key, value in found.groupdict().items()}
                if parameters["packageName"] != self.package:
                    return error_reply(404, "applicationNotFound")
                return self._documented(name, parameters, call)
        return error_reply(404, "notFound")

    def _sign_in(self, call: Call) -> Reply:
        form = {name: values[0] for name, values in parse_qs(call.body.decode()).items()}
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        registry = jws.JWSRegistry(algorithms=["RS256"])
        claims = json.loads(
            jws.deserialize_compact(
                form["assertion"], RSAKey.import_key(ACCOUNT_KEY.public_key()), registry=registry
            ).payload
        )
        assert claims["scope"] in SCOPES
        assert claims["aud"].endswith("/token")
        token = f"ya29.{claims['scope'].rpartition('/')[2]}.{len(self.signed_in)}"
        self.signed_in.add(token)
        return json_reply({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def _decode(self, call: Call) -> Reply:
        if (call.method, call.path) != ("POST", f"/v1/{self.package}:decodeIntegrityToken"):
            return error_reply(404, "notFound")
        request = json.loads(call.body)
        assert request.keys() == {"integrityToken"}
        if request["integrityToken"] not in self.verdicts:
            return error_reply(400, "INVALID_ARGUMENT")
        return json_reply({"tokenPayloadExternal": self.verdicts[request["integrityToken"]]})

    def _documented(self, name: str, parameters: dict[str, str], call: Call) -> Reply:
        if name == "productsv2.getproductpurchasev2":
            return self._get(self.products, parameters)
        if name == "subscriptionsv2.get":
            return self._get(self.subscriptions, parameters)
        if name in ("products.acknowledge", "subscriptions.acknowledge"):
            assert json.loads(call.body) == {}
            known = self.products if name.startswith("products") else self.subscriptions
            purchase = known.get(parameters["token"])
            if purchase is None or purchase["acknowledgementState"] != "ACKNOWLEDGEMENT_STATE_PENDING":
                return error_reply(400, "invalidPurchaseState")
            items = purchase.get("productLineItem", purchase.get("lineItems"))
            product = parameters["productId" if name.startswith("products") else "subscriptionId"]
            if product not in [item["productId"] for item in items]:
                return error_reply(400, "invalid")
            purchase["acknowledgementState"] = "ACKNOWLEDGEMENT_STATE_ACKNOWLEDGED"
            return 204, {}, b""
        if name == "voidedpurchases.list":
            start = int(call.query.get("token", "page-0").removeprefix("page-"))
            page = self.voided[start : start + self.page_size]
            answer: dict[str, Any] = {"voidedPurchases": page} if page else {}
            if start + self.page_size < len(self.voided):
                answer["tokenPagination"] = {"nextPageToken": f"page-{start + self.page_size}"}
            return json_reply(answer)
        raise AssertionError(name)

    @staticmethod
    def _get(known: dict[str, dict[str, Any]], parameters: dict[str, str]) -> Reply:
        if parameters["token"] not in known:
            return error_reply(404, "purchaseTokenNotFound")
        return json_reply(known[parameters["token"]])


def documented_methods() -> Iterator[tuple[str, dict[str, Any]]]:
    for resource, content in DISCOVERY["purchases"]["resources"].items():
        for name, method in content["methods"].items():
            yield f"{resource}.{name}", method


def pattern_of(flat_path: str) -> str:
    return "/" + re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(flat_path))


def undocumented(schema: str, value: dict[str, Any]) -> list[str]:
    """Fields of an answer that the discovery document does not name."""
    properties = DISCOVERY["schemas"][schema]["properties"]
    found = [name for name in value if name not in properties]
    for name, inner in value.items():
        described = properties.get(name, {})
        reference = described.get("$ref") or described.get("items", {}).get("$ref")
        if reference in DISCOVERY["schemas"] and "properties" in DISCOVERY["schemas"][reference]:
            for item in inner if isinstance(inner, list) else [inner]:
                found += [f"{name}.{missing}" for missing in undocumented(reference, item)]
        if "enum" in described and inner not in described["enum"]:
            found.append(f"{name}={inner}")
    return found


# --- ways to misbehave ---------------------------------------------------------------------------


def hang(seconds: float) -> Callable[[Call], Callable[[Any], None]]:
    return lambda _: lambda __: time.sleep(seconds)


def drip(pieces: int, pause: float) -> Callable[[Call], Callable[[Any], None]]:
    """An answer that comes byte by byte, each within the time-out."""

    def write(out: Any) -> None:
        out.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(pieces):
            out.write(b" ")
            out.flush()
            time.sleep(pause)

    return lambda _: write


def raw(data: bytes) -> Callable[[Call], Callable[[Any], None]]:
    return lambda _: lambda out: out.write(data)
