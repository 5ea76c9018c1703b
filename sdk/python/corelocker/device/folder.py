"""The folder that a software device lives in. Its files are its owner's alone (mode 0600) and written atomically.

corelocker.json     the app configuration, as the app's package carries it on a phone
device-key.pem      the device key, which a phone keeps in its secure hardware
attestation.pem     the development attestation key and its certificate
licenses/ID.jws     the license of each key bundle
clock.json          the mark of the device's clock
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from corelocker.errors import ConfigError, FileAccessError, OutputExistsError
from corelocker.files import write_atomically
from corelocker.licensing.app_config import MAX_SIZE, AppConfig
from corelocker.licensing.development import DevelopmentKey
from corelocker.licensing.device_clock import FileMarkStore
from corelocker.licensing.tokens import MAX_TOKEN_SIZE

_CONFIG, _DEVICE_KEY, _ATTESTATION_KEY, _LICENSES = "corelocker.json", "device-key.pem", "attestation.pem", "licenses"
_MAX_PEM = 64 << 10


class DeviceFolder:
    """The files of a device; `path` is the folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.marks = FileMarkStore(self.path / "clock.json")

    @property
    def exists(self) -> bool:
        """Whether the folder is a device."""
        return (self.path / _CONFIG).exists()

    def create(self, config: AppConfig, device_key: ec.EllipticCurvePrivateKey, attestation: DevelopmentKey) -> None:
        """Make the folder a device. Raises OutputExistsError when it is one already, FileAccessError."""
        if self.exists:
            raise OutputExistsError(f"{self.path} is a device already", hint="Choose another folder")
        try:
            (self.path / _LICENSES).mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
        except OSError as error:
            raise FileAccessError(f"{self.path}: {error.strerror or error}") from None
        self._write(_DEVICE_KEY, device_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self._write(_ATTESTATION_KEY, attestation.to_pem().encode())
        # Last: without it the folder is not a device.
        self._write(_CONFIG, config.to_json())

    def config(self) -> AppConfig:
        """The app configuration. Raises AppConfigError, FileAccessError."""
        return AppConfig.from_json(self._read(_CONFIG, MAX_SIZE))

    def device_key(self) -> ec.EllipticCurvePrivateKey:
        """The device key. Raises ConfigError when it is damaged, FileAccessError when others can read it."""
        try:
            key = load_pem_private_key(self._read(_DEVICE_KEY, _MAX_PEM), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError(f"{self.path / _DEVICE_KEY} is not a P-256 private key")
        return key

    def attestation_key(self) -> DevelopmentKey:
        """The development attestation key. Raises as `device_key`."""
        return DevelopmentKey.from_pem(self._read(_ATTESTATION_KEY, _MAX_PEM).decode("ascii", "replace"))

    def license(self, bundle_id: str) -> str | None:
        """The license of a key bundle, unchecked; None where there is none. Raises FileAccessError."""
        name = self._license_name(bundle_id)
        return self._token(name) if (self.path / name).exists() else None

    def licenses(self) -> list[str]:
        """All licenses, unchecked. Raises FileAccessError."""
        return [self._token(f"{_LICENSES}/{path.name}") for path in sorted((self.path / _LICENSES).glob("*.jws"))]

    def store_license(self, bundle_id: str, token: str) -> None:
        """Put a license in the place of the one that the bundle had. Raises FileAccessError."""
        self._write(self._license_name(bundle_id), token.encode("ascii"))

    def remove_license(self, bundle_id: str) -> None:
        """Remove the license of a bundle, if there is one."""
        (self.path / self._license_name(bundle_id)).unlink(missing_ok=True)

    def remove_mark(self) -> None:
        """Remove the mark of the clock, if there is one."""
        (self.path / "clock.json").unlink(missing_ok=True)

    @staticmethod
    def _license_name(bundle_id: str) -> str:
        return f"{_LICENSES}/{bundle_id}.jws"

    def _token(self, name: str) -> str:
        return self._read(name, MAX_TOKEN_SIZE).decode("ascii", "replace")

    def _write(self, name: str, data: bytes) -> None:
        with write_atomically(self.path / name, force=True, mode=0o600) as file:
            file.write(data)

    def _read(self, name: str, longest: int) -> bytes:
        """A small file that only its owner may read."""
        path = self.path / name
        try:
            with path.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise FileAccessError(f"{path} can be read by others", hint=f"Run: chmod 600 {path}")
                data = file.read(longest + 1)
        except OSError as error:
            raise FileAccessError(f"{path}: {error.strerror or error}") from None
        if len(data) > longest:
            raise FileAccessError(f"{path} has more than {longest} bytes")
        return data
