"""The key-encryption-key provider "aws-kms": AWS KMS wraps the keystore's key, and the key that does it never leaves KMS.

The reference is the ARN of a symmetric key or of an alias, or an alias alone:

    corelocker keystore init keys.json --kek aws-kms:arn:aws:kms:eu-central-1:111122223333:alias/corelocker

The region is the ARN's, or the machine's; credentials are the machine's. boto3 finds both where it always does.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

from corelocker.bundle.keystore.container import FORMAT
from corelocker.errors import ConfigError, KeystoreAwayError, KeystoreSecretError
from corelocker.extras import need

# KMS binds it to the ciphertext, writes it to CloudTrail, and a policy may ask for it.
ENCRYPTION_CONTEXT: Final = {"format": FORMAT}
CONNECT_TIMEOUT, READ_TIMEOUT, ATTEMPTS = 3, 5, 3  # seconds; the same for the services that give credentials
_LONGEST_WRAPPED = 6144  # that KMS decrypts

_ALIAS = r"alias/[A-Za-z0-9/_-]{1,250}"
_REFERENCE = re.compile(
    rf"arn:aws[a-z-]*:kms:([a-z]{{2}}[a-z0-9-]{{1,30}}):[0-9]{{12}}:(?:key/[a-z0-9-]{{1,64}}|{_ALIAS})|{_ALIAS}"
)

_CREDENTIALS = "Check this machine's role or profile, its AWS_* variables and its clock"
# What KMS says of a key -> what is said of it here, and what to do.
_REFUSALS: Final = {
    "AccessDeniedException": (
        "may not be used with this machine's credentials",
        "Allow the operation as docs/production.md says",
    ),
    "DisabledException": ("is disabled", "Enable it in KMS"),
    "KMSInvalidStateException": ("cannot be used in its state", "Cancel its deletion, or import its material again"),
    "NotFoundException": ("does not exist", "Correct account, region and name"),
    "InvalidKeyUsageException": ("is not a symmetric encryption key", "Name one of the spec SYMMETRIC_DEFAULT"),
    "InvalidCiphertextException": ("does not open the keystore", "The file is damaged, or another key wrapped it"),
    "IncorrectKeyException": ("does not open the keystore", "Let the alias point to the key that wrapped it"),
}
_BAD_CREDENTIALS: Final = frozenset(
    {
        *("AccessDenied", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId"),
        *("InvalidIdentityToken", "InvalidSignatureException", "MissingAuthenticationToken"),
        *("MissingAuthenticationTokenException", "SignatureDoesNotMatch", "UnrecognizedClientException"),
    }
)


class AwsKmsKek:
    """Wraps with the operations Encrypt and Decrypt of AWS KMS; wrapped is its CiphertextBlob.

    Raises ConfigError for a reference of another form.
    """

    def __init__(self, reference: str) -> None:
        found = _REFERENCE.fullmatch(reference)
        if found is None:
            raise ConfigError(
                "an AWS KMS key is named by its ARN or an alias",
                hint="As in aws-kms:arn:aws:kms:eu-central-1:111122223333:alias/corelocker, or aws-kms:alias/corelocker",
            )
        self._reference, self._region = reference, found[1]

    def wrap(self, key: bytes) -> bytes:
        """The key, encrypted by KMS.

        Raises KeystoreAwayError when KMS gives no answer now, KeystoreSecretError when it refuses, MissingExtraError without
        boto3.
        """
        return self._call("encrypt", "CiphertextBlob", Plaintext=key)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The inverse of `wrap`; raises the same."""
        if len(wrapped) > _LONGEST_WRAPPED:
            raise KeystoreSecretError("the wrapped key is not of AWS KMS's form")
        return self._call("decrypt", "Plaintext", CiphertextBlob=wrapped)

    def _call(self, operation: str, wanted: str, **arguments: bytes) -> bytes:
        exceptions = _need("botocore.exceptions")
        try:
            ask = getattr(_client(self._region), operation)
            answer = ask(KeyId=self._reference, EncryptionContext=ENCRYPTION_CONTEXT, **arguments)
        except exceptions.ClientError as error:
            raise self._refusal(str(error.response.get("Error", {}).get("Code"))) from None
        except (exceptions.BotoCoreError, ValueError) as error:
            raise _no_answer(exceptions, error) from None
        result = answer.get(wanted)
        if not isinstance(result, bytes):  # of a proxy, say
            raise KeystoreSecretError("the answer is not of AWS KMS's form", hint="Check what stands between")
        return result

    def _refusal(self, code: str) -> KeystoreSecretError:
        """An error of our words: AWS's may show what was sent."""
        if code in _REFUSALS:
            what, hint = _REFUSALS[code]
            return KeystoreSecretError(f"the AWS KMS key {self._reference} {what}", hint=hint)
        shown = code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else "unknown"
        if code in _BAD_CREDENTIALS:
            return KeystoreSecretError(f"AWS refused this machine's credentials ({shown})", hint=_CREDENTIALS)
        return KeystoreAwayError(f"AWS KMS cannot use {self._reference} now ({shown})", hint="Try again later")


def _no_answer(exceptions: Any, error: Exception) -> KeystoreSecretError:
    """An error of our words: those of botocore may show a proxy's password."""
    kind = type(error).__name__
    if isinstance(error, exceptions.NoRegionError):
        return KeystoreSecretError("no AWS region is set", hint="Set AWS_DEFAULT_REGION, or name the key by its ARN")
    if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
        hint = "Check network, proxy and VPC endpoint, then try again"
        return KeystoreAwayError(f"AWS KMS cannot be reached ({kind})", hint=hint)
    return KeystoreSecretError(f"this machine's AWS settings or credentials cannot be used ({kind})", hint=_CREDENTIALS)


def _client(region: str | None) -> Any:
    # At the level DEBUG botocore logs what it sends and gets, and that is the key.
    logger = logging.getLogger("botocore")
    logger.setLevel(max(logger.getEffectiveLevel(), logging.INFO))
    config = _need("botocore.config").Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    session = _need("botocore.session").get_session()
    session.set_default_client_config(config)  # for the clients that fetch credentials, too
    return _need("boto3").Session(botocore_session=session, region_name=region).client("kms")


def _need(module: str) -> Any:
    return need(module, "the key-encryption-key provider aws-kms", "aws")
