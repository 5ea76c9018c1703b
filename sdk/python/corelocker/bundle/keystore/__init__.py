"""The keystore: a publisher's signing keys and content keys in one encrypted file (docs/formats.md, "Keystore").

`store` changes it. `container` is the file around the encrypted part, and `contents` is what is inside. `protection`
and `kek` say where the file's key comes from. `passphrase` asks for a passphrase.
"""

from corelocker.bundle.keystore.contents import ContentKey, PublisherKey
from corelocker.bundle.keystore.kek import KEK_PROVIDERS, FileKek, Kek, KekProvider, Secret
from corelocker.bundle.keystore.lock_records import MAX_KEPT, LockRecord, RecordedFile, RecordedLayer
from corelocker.bundle.keystore.passphrase import read_passphrase
from corelocker.bundle.keystore.store import Keystore, StagedKey

__all__ = [
    "KEK_PROVIDERS",
    "MAX_KEPT",
    "ContentKey",
    "FileKek",
    "Kek",
    "KekProvider",
    "Keystore",
    "LockRecord",
    "PublisherKey",
    "RecordedFile",
    "RecordedLayer",
    "Secret",
    "StagedKey",
    "read_passphrase",
]
