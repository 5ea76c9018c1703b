"""Every way in which input can be bad, as one typed error each.

An error has a stable `code` (kebab-case), which `--json` prints, which the vectors in
`tests/vectors` name as the expected outcome and which the C++, Kotlin and Swift layers use too,
and a message that says what to do. Messages never carry key bytes, weights or passphrases.
"""

from __future__ import annotations

from typing import ClassVar


class CoreLockerError(Exception):
    """Base of all errors that the caller can act on."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}. {hint}")


# --- files ---------------------------------------------------------------------------------------


class FileAccessError(CoreLockerError):
    """A file or folder cannot be read or written (missing, permission, disk full)."""

    code = "file-access"


class OutputExistsError(CoreLockerError):
    """The output is there already and `--force` was not given."""

    code = "output-exists"


# --- artifacts -----------------------------------------------------------------------------------


class ArtifactError(CoreLockerError):
    """An artifact cannot be read."""

    code = "artifact"


class UnknownFormatError(ArtifactError):
    """The file is none of the supported formats, or a version of one that this release does not know."""

    code = "artifact-unknown-format"


class MalformedArtifactError(ArtifactError):
    """The file is truncated or its structure contradicts itself."""

    code = "artifact-malformed"


class UnsupportedLayoutError(ArtifactError):
    """A tensor has a layout that cannot be locked; the message names the tensor and the reason."""

    code = "artifact-unsupported-layout"


class NothingToLockError(ArtifactError):
    """The artifact holds no channel that can be locked."""

    code = "artifact-nothing-to-lock"


# --- locking -------------------------------------------------------------------------------------


class LockingError(CoreLockerError):
    """A lock was asked for that cannot be made."""

    code = "locking"


class CriterionError(LockingError):
    """The criterion needs something the artifact does not have (BatchNorm scales, a source checkpoint)."""

    code = "locking-criterion"


class TierError(LockingError):
    """The tiers are not nested, not named uniquely, or the last does not restore everything."""

    code = "locking-tiers"


class SampleReuseError(LockingError):
    """The locked file looks like that of another version of the model, so that neither could be told from the other."""

    code = "locking-sample"


class WeakLockError(LockingError):
    """A locked model is worth more than `--require` allows. Nothing was written.

    Attributes:
        at_chance: whether its answers are at chance, and only a correlation is left, which another draw may not leave.
    """

    code = "locking-weak"

    def __init__(self, message: str, *, hint: str | None = None, at_chance: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.at_chance = at_chance


class BaseRevealsError(WeakLockError):
    """The public base that the model was tuned from gives away what the lock takes. Nothing was written."""

    code = "locking-base"


class NotMeasuredError(LockingError):
    """What a locked model is worth could not be measured, and its options do not make it safe. Nothing was written."""

    code = "locking-not-measured"


class EarlierLockError(LockingError):
    """An earlier lock of the same model hides what this one would leave open."""

    code = "locking-earlier"


class PlanError(LockingError):
    """A saved plan is damaged or was made for another artifact."""

    code = "locking-plan"


# --- patch ---------------------------------------------------------------------------------------


class PatchError(CoreLockerError):
    """A patch is not what the format allows."""

    code = "patch"


class PatchTruncatedError(PatchError):
    """Shorter than its header, its runs or its payload say."""

    code = "patch-truncated"


class PatchMagicError(PatchError):
    """Does not begin with `CLPATCH`."""

    code = "patch-magic"


class PatchVersionError(PatchError):
    """A patch of a version that this release does not read. For version 1 the model has to be locked again."""

    code = "patch-version"


class PatchReservedError(PatchError):
    """The reserved field is not 0."""

    code = "patch-reserved"


class PatchRunError(PatchError):
    """A run has length 0, count 0, or a stride that its count does not allow."""

    code = "patch-run"


class PatchKindError(PatchError):
    """A run's kind, width, constant, reserved byte and length do not go together."""

    code = "patch-kind"


class PatchOrderError(PatchError):
    """Runs do not ascend strictly by offset."""

    code = "patch-order"


class PatchOverflowError(PatchError):
    """An offset or a sum leaves 64 bits."""

    code = "patch-overflow"


class PatchBoundsError(PatchError):
    """A run reaches past the end of the file."""

    code = "patch-bounds"


class PatchOverlapError(PatchError):
    """A byte of the file would be written twice."""

    code = "patch-overlap"


class PatchPayloadError(PatchError):
    """The runs do not add up to the payload's length."""

    code = "patch-payload"


class PatchTableError(PatchError):
    """The table of a permuting run has an entry that is too large, or is not its own inverse."""

    code = "patch-table"


class PatchPaddingError(PatchError):
    """A mask has a bit behind its last element."""

    code = "patch-padding"


class PatchTrailingError(PatchError):
    """Bytes follow the payload."""

    code = "patch-trailing"


# --- key bundle ----------------------------------------------------------------------------------


class BundleError(CoreLockerError):
    """A key bundle is not what the format allows."""

    code = "bundle"


class BundleTruncatedError(BundleError):
    """Shorter than its header or its sections say."""

    code = "bundle-truncated"


class BundleMagicError(BundleError):
    """Does not begin with `CLKEYB`."""

    code = "bundle-magic"


class BundleHeaderError(BundleError):
    """The header is too large, not UTF-8 JSON, has duplicate keys, or fields of the wrong kind."""

    code = "bundle-header"


class BundleVersionError(BundleError):
    """A bundle of a major version that this release does not read. With version 1 the model has to be locked again."""

    code = "bundle-version"


class BundleSignatureError(BundleError):
    """The signature is not the publisher's."""

    code = "bundle-signature"


class BundlePublisherError(BundleError):
    """The bundle is signed by another publisher than the one that was asked for."""

    code = "bundle-publisher"


class BundleTrailingError(BundleError):
    """Bytes follow the last section."""

    code = "bundle-trailing"


class ContentKeyError(BundleError):
    """The content key does not open the section (wrong key, or damaged bytes)."""

    code = "bundle-content-key"


class BundleMismatchError(BundleError):
    """The bundle has no such artifact, file or tier, or is of another model or model version."""

    code = "bundle-mismatch"


# --- restore -------------------------------------------------------------------------------------


class RestoreError(CoreLockerError):
    """A file cannot be restored."""

    code = "restore"


class FileSizeError(RestoreError):
    """The file has another length than the bundle says."""

    code = "restore-size"


class AlreadyRestoredError(RestoreError):
    """The file is restored already; a patch is applied once."""

    code = "restore-already"


class ReplacedBytesError(RestoreError):
    """The file is not the locked file that the bundle was made for."""

    code = "restore-replaced"


class RestoredBytesError(RestoreError):
    """The file after the patch is not the publisher's."""

    code = "restore-restored"


# --- keystore ------------------------------------------------------------------------------------


class KeystoreError(CoreLockerError):
    """A keystore cannot be used."""

    code = "keystore"


class KeystoreFormatError(KeystoreError):
    """Not a keystore, damaged, or of an unknown version."""

    code = "keystore-format"


class KeystoreSecretError(KeystoreError):
    """The passphrase or key-encryption key does not open the keystore, or none was given."""

    code = "keystore-secret"


class KeystoreAwayError(KeystoreSecretError):
    """The key-encryption key cannot be asked now. Another try may help."""


class KeystorePermissionError(KeystoreError):
    """The keystore can be read by others."""

    code = "keystore-permission"


class KeystoreEntryError(KeystoreError):
    """The keystore has no key for this bundle or publisher."""

    code = "keystore-entry"


# --- export --------------------------------------------------------------------------------------


class ExportError(CoreLockerError):
    """A model cannot be exported; the message names the step."""

    code = "export"


class MissingExtraError(CoreLockerError):
    """An optional dependency is not installed; the message names the extra."""

    code = "missing-extra"


class ConfigError(CoreLockerError):
    """An option or a configuration file asks for something that does not exist."""

    code = "config"
