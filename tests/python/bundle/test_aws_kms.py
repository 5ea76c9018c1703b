"""The keystore under AWS KMS: boto3 against moto, and against a server that refuses or says nothing."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import boto3
import pytest
from corelocker.bundle import jose
from corelocker.bundle.keystore import KEK_PROVIDERS, Kek, Keystore, aws_kms
from corelocker.bundle.keystore.aws_kms import AwsKmsKek
from corelocker.cli import app
from corelocker.errors import ConfigError, KeystoreSecretError, MissingExtraError
from moto import mock_aws

ROOT = Path(__file__).parents[3]
REGION, SECRET = "eu-central-1", "the-secret-of-the-access-key"
ARN = f"arn:aws:kms:{REGION}:123456789012:key/0b5aa3d2-7a52-4c19-8d5d-3a1d1f0a7c01"


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's AWS settings, none of the real one; the provider as pyproject.toml registers it."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    registered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][KEK_PROVIDERS]

    def installed(group: str, name: str) -> list[EntryPoint]:
        return [EntryPoint(name, registered[name], group)] if name in registered else []

    monkeypatch.setattr("importlib.metadata.entry_points", installed)


@pytest.fixture
def kms() -> Iterator[Any]:
    """A client of an AWS of moto's."""
    with mock_aws():
        yield boto3.client("kms", region_name=REGION)


def new_key(kms: Any, alias: str = "", **options: Any) -> str:
    """The ARN of a new key."""
    made = kms.create_key(**options)["KeyMetadata"]
    if alias:
        kms.create_alias(AliasName=alias, TargetKeyId=made["KeyId"])
    return str(made["Arn"])


@contextmanager
def answering(status: int, body: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A server in KMS's place that gives one answer to everything; the list fills with what it was sent."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(aws_kms, "ATTEMPTS", 1)
    try:
        yield got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- with moto -----------------------------------------------------------------------------------


def test_the_command_line_from_one_key_to_the_next(
    kms: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, path = new_key(kms), str(tmp_path / "keys.json")
    new_key(kms, "alias/corelocker")
    new = f"arn:aws:kms:{REGION}:123456789012:alias/corelocker"

    def run(*arguments: str, code: int = 0) -> Any:
        assert app.run(["keystore", *arguments, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    publisher = run("init", path, "--kek", f"aws-kms:{old}")["publisher"]
    kek = json.loads(Path(path).read_text())["kek"]
    assert (kek["provider"], kek["reference"]) == ("aws-kms", old)
    assert run("rotate", path, "--secret", "--kek", f"aws-kms:{new}")["publisher"] == publisher
    kek = json.loads(Path(path).read_text())["kek"]
    assert kek["reference"] == new
    with pytest.raises(KeystoreSecretError):
        AwsKmsKek(old).unwrap(jose.decode_base64url(kek["wrapped"]))
    assert run("show", path)["publisher"] == publisher
    assert run("init", str(tmp_path / "no.json"), "--kek", "aws-kms:key", code=2)["error"]["code"] == "config"
    refused = run("init", str(tmp_path / "no.json"), "--kek", f"aws-kms:{ARN}", code=1)["error"]
    assert refused["code"] == "keystore-secret"
    assert "does not exist" in refused["message"]
    assert not (tmp_path / "no.json").exists()


def test_every_form_of_a_reference(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = new_key(kms, "alias/team/locker_1")
    wrapped = AwsKmsKek(arn).wrap(bytes(range(32)))
    assert AwsKmsKek(f"arn:aws:kms:{REGION}:123456789012:alias/team/locker_1").unwrap(wrapped) == bytes(range(32))
    with pytest.raises(KeystoreSecretError, match="AWS_DEFAULT_REGION"):
        AwsKmsKek("alias/team/locker_1").unwrap(wrapped)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(KeystoreSecretError, match="does not exist"):
        AwsKmsKek("alias/team/locker_1").wrap(bytes(32))
    assert AwsKmsKek(arn).unwrap(wrapped) == bytes(range(32)), "the ARN's region counts before the machine's"
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    assert AwsKmsKek("alias/team/locker_1").unwrap(wrapped) == bytes(range(32))


@pytest.mark.parametrize(
    "reference",
    ["", "alias/", "alias/a b", "locker", ARN + "\n", ARN.replace("kms", "s3"), ARN.replace(REGION, "evil.example/x"),
     ARN.replace(REGION, ""), ARN.replace("123456789012", "1"), ARN.replace("key/", "secret/"), " " + ARN],
)  # fmt: skip
def test_a_reference_of_another_form(reference: str) -> None:
    with pytest.raises(ConfigError, match="ARN or an alias"):
        AwsKmsKek(reference)


def test_the_ciphertext_belongs_to_the_format_and_the_key(kms: Any) -> None:
    arn, other = new_key(kms), new_key(kms)
    wrapped = AwsKmsKek(arn).wrap(bytes(32))
    assert kms.decrypt(CiphertextBlob=wrapped, EncryptionContext={"format": "corelocker-keystore"})[
        "Plaintext"
    ] == bytes(32)
    for_another_use = kms.encrypt(KeyId=arn, Plaintext=bytes(32), EncryptionContext={"format": "other"})[
        "CiphertextBlob"
    ]
    for name, blob in ((arn, for_another_use), (other, wrapped), (arn, wrapped[:-1] + b"\0"), (arn, b"\0")):
        with pytest.raises(KeystoreSecretError):
            AwsKmsKek(name).unwrap(blob)
    for blob in (b"", bytes(6145)):
        with pytest.raises(KeystoreSecretError):
            AwsKmsKek(arn).unwrap(blob)


def test_a_keystore_whose_key_cannot_be_used(kms: Any, tmp_path: Path) -> None:
    arn = new_key(kms)
    store = Keystore.create(tmp_path / "keys.json", Kek("aws-kms", arn))
    assert Keystore.open(store.path).publisher == store.publisher
    document = json.loads(store.path.read_text())
    document["kek"]["reference"] = new_key(kms)
    store.path.write_text(json.dumps(document))
    with pytest.raises(KeystoreSecretError):
        Keystore.open(store.path)


def test_the_key_is_not_logged_at_any_level(kms: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("botocore").setLevel(logging.NOTSET)
    key = os.urandom(32)
    kek = AwsKmsKek(new_key(kms))
    assert kek.unwrap(kek.wrap(key)) == key
    assert base64.b64encode(key).decode() not in caplog.text
    assert repr(key) not in caplog.text


# --- without an answer that helps ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "AccessDeniedException", "may not be used with this machine's credentials. Allow"),
        (400, "DisabledException", "is disabled. Enable it"),
        (400, "KMSInvalidStateException", "Cancel its deletion"),
        (400, "NotFoundException", "does not exist"),
        (400, "InvalidKeyUsageException", "not a symmetric"),
        (400, "InvalidCiphertextException", "does not open"),
        (400, "IncorrectKeyException", "does not open"),
        (400, "UnrecognizedClientException", "refused this machine's credentials"),
        (400, "ExpiredTokenException", "refused this machine's credentials"),
        (400, "ThrottlingException", "Try again later"),
        (500, "KMSInternalException", r"\(KMSInternalException\)"),
        (400, "com.amazon#\u001b[31m", r"\(unknown\)"),
    ],
)
def test_what_kms_refuses(status: int, code: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = json.dumps({"__type": code, "message": f"not to be shown: {SECRET}"}).encode()
    with answering(status, body, monkeypatch) as got:
        for ask in (AwsKmsKek(ARN).wrap, AwsKmsKek(ARN).unwrap):
            with pytest.raises(KeystoreSecretError, match=said) as refusal:
                ask(bytes(32))
            assert "shown" not in str(refusal.value)
            assert refusal.value.__cause__ is None
    sent = [json.loads(body) for body in got]
    assert [item["EncryptionContext"] for item in sent] == [{"format": "corelocker-keystore"}] * 2
    assert [item["KeyId"] for item in sent] == [ARN] * 2


@pytest.mark.parametrize("body", [b"<html>sign in</html>", b"{}", b""])
def test_an_answer_that_is_not_kms(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(200, body, monkeypatch), pytest.raises(KeystoreSecretError):
        AwsKmsKek(ARN).unwrap(bytes(32))


def test_kms_that_says_nothing_or_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_kms, "ATTEMPTS", 1)
    monkeypatch.setattr(aws_kms, "READ_TIMEOUT", 0.1)
    silent = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # listens, and nobody serves
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{silent.server_port}")
    with silent, pytest.raises(KeystoreSecretError, match=r"cannot be reached \(ReadTimeoutError\). Check network"):
        AwsKmsKek(ARN).wrap(bytes(32))
    with pytest.raises(KeystoreSecretError, match=r"cannot be reached \(EndpointConnectionError\)"):
        AwsKmsKek(ARN).wrap(bytes(32))
    monkeypatch.delenv("AWS_ENDPOINT_URL_KMS")
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@127.0.0.1:{silent.server_port}")
    with pytest.raises(KeystoreSecretError, match=r"\(ProxyConnectionError\)") as refusal:
        AwsKmsKek(ARN).wrap(bytes(32))
    assert SECRET not in str(refusal.value)


def test_a_machine_without_usable_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "not an address")
    with pytest.raises(KeystoreSecretError, match=r"AWS settings"):
        AwsKmsKek(ARN).wrap(bytes(32))
    monkeypatch.delenv("AWS_ENDPOINT_URL_KMS")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(KeystoreSecretError, match=r"PartialCredentialsError"):
        AwsKmsKek(ARN).wrap(bytes(32))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(KeystoreSecretError, match=r"NoCredentialsError\). Check this machine's role"):
        AwsKmsKek(ARN).wrap(bytes(32))
    monkeypatch.setenv("AWS_PROFILE", "none")
    with pytest.raises(KeystoreSecretError, match=r"ProfileNotFound"):
        AwsKmsKek(ARN).wrap(bytes(32))


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'corelocker\[aws\]'"):
        AwsKmsKek(ARN).wrap(bytes(32))
    monkeypatch.setitem(sys.modules, "botocore.exceptions", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'corelocker\[aws\]'"):
        AwsKmsKek(ARN).unwrap(bytes(32))


def test_boto3_is_loaded_when_kms_is_asked() -> None:
    code = (
        "import sys; from corelocker.bundle.keystore import Kek; from corelocker.bundle.keystore.aws_kms import AwsKmsKek\n"
        f"AwsKmsKek({ARN!r}); assert not {{'boto3', 'botocore'}} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
