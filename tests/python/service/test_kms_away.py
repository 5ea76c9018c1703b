"""A worker whose keystore is under AWS KMS."""

from __future__ import annotations

import multiprocessing
import os
import socket
from importlib.metadata import EntryPoint
from pathlib import Path

import boto3
import pytest
from corelocker.bundle.keystore import FileKek, Kek, Keystore, aws_kms
from corelocker.errors import KeystoreAwayError
from corelocker.service.checks import check_config
from corelocker.service.config_file import load_config
from corelocker.service.keys import open_keys
from corelocker.service.limits import Limiters
from corelocker.service.setup import init_development
from corelocker.service.worker import TRY_AGAIN, work
from moto import mock_aws


def test_a_worker_that_starts_while_kms_is_away_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = EntryPoint("aws-kms", "corelocker.bundle.keystore.aws_kms:AwsKmsKek", "corelocker.kek_providers")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name: [provider])
    monkeypatch.setattr(aws_kms, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    FileKek.generate(tmp_path / "kek")
    publisher = Keystore.create(tmp_path / "keys.json", Kek("file", str(tmp_path / "kek")))
    files = init_development(tmp_path / "service", publisher, "com.example.app")
    config = load_config(files.config)
    with mock_aws():
        arn = boto3.client("kms", region_name="eu-central-1").create_key()["KeyMetadata"]["Arn"]
        Keystore.open(files.keys).change_secret(Kek("aws-kms", arn))
        signer = open_keys(config.keys).signer
        assert signer.public_key == Keystore.open(files.keys).signing_key.public_key()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(KeystoreAwayError):
        open_keys(config.keys)
    assert "keystore-secret" in {finding.code for finding in check_config(config) if finding.level == "error"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        arguments = (config, listener, Limiters.of(config), multiprocessing.Pipe()[1])
        worker = multiprocessing.get_context("fork").Process(target=work, args=arguments)
        worker.start()
        worker.join(60)
    assert worker.exitcode == TRY_AGAIN == os.EX_TEMPFAIL
