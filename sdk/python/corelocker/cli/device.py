"""`corelocker device`: a software device, which unlocks, renews, restores and runs like a phone."""

from __future__ import annotations

import hashlib
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corelocker.cli.app import Json, emit, human
from corelocker.errors import ConfigError, FileAccessError, MissingExtraError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from cryptography.hazmat.primitives.asymmetric import ec

    from corelocker.device.software import SoftwareDevice
    from corelocker.licensing.license import Verified
    from corelocker.runtime.executorch import RestoredModule

_MAX_TEXT = 1 << 20

app = typer.Typer(
    help="A device in software, for development and CI: it does what the phone SDKs do.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="The device's folder.")]
Locked = Annotated[Path, typer.Argument(help="A locked weight file (of a package, its weight.bin).")]
Bundle = Annotated[Path, typer.Option(help="The key bundle (.clkey) that the app ships.")]
CaFile = Annotated[
    Path | None, typer.Option(help="PEM file of the authorities to trust for https, in place of the system's.")
]
Tier = Annotated[str | None, typer.Option(help="Tier to restore to.", show_default="that of the license")]


@app.command()
def init(
    folder: Folder,
    config: Annotated[Path, typer.Option(help="The app configuration, corelocker.json, as the app ships it.")],
    root: Annotated[
        Path | None,
        typer.Option(help="PEM file with certificate and key of a development root: certifies a new attestation key."),
    ] = None,
    attestation_key: Annotated[
        Path | None, typer.Option(help="PEM file with certificate and key of an attestation key, in place of --root.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a device in a folder: a new key pair, and what an app pins at build time.

    Example: corelocker device init phone --config corelocker.json --root dev-root.pem
    """
    require_client_packages()
    from corelocker.device.software import SoftwareDevice
    from corelocker.licensing.app_config import AppConfig
    from corelocker.licensing.development import DevelopmentKey, DevelopmentRoot

    if (root is None) == (attestation_key is None):
        raise ConfigError("a device needs either --root or --attestation-key")
    app_config = AppConfig.from_json(_text(config).encode())
    if root is not None:
        pem = _text(root)
        key = DevelopmentRoot.from_pem(pem, pem).issue(folder.name or "device", datetime.now(UTC))
    else:
        key = DevelopmentKey.from_pem(_text(attestation_key or folder))
    device = SoftwareDevice.create(folder, app_config, key)
    document = {
        "device": str(folder),
        "thumbprint": device.thumbprint,
        "app": app_config.app,
        "service": app_config.service,
    }
    emit(json, document, lambda: print(f"{folder}: new device {device.thumbprint} with app {app_config.app}"))


@app.command()
def unlock(
    folder: Folder,
    bundle: Bundle,
    grant: Annotated[
        Path, typer.Option(help="File with the grant of the publisher's backend; - reads it from standard input.")
    ],
    tier: Annotated[str | None, typer.Option(help="Tier to unlock.", show_default="the last")] = None,
    ca_file: CaFile = None,
    json: Json = False,
) -> None:
    """Prove device and purchase to the service, and store the license that it issues.

    Example: corelocker device unlock phone --bundle dist/scanner.clkey --grant grant.jwt --tier plus
    """
    device = _open(folder, ca_file)
    with device.open_bundle(bundle) as opened:
        purchase = {"provider": "grant", "token": _text(grant).strip()}
        verified = device.unlock(opened, tier or opened.tiers[-1], purchase)
    _show_license(verified, json)


@app.command()
def renew(
    folder: Folder,
    bundle: Bundle,
    device_key: Annotated[
        bool, typer.Option("--device-key", help="Prove the device key alone, as Android does; without an attestation.")
    ] = False,
    ca_file: CaFile = None,
    json: Json = False,
) -> None:
    """Get the next license for the one that the device holds.

    Example: corelocker device renew phone --bundle dist/scanner.clkey
    """
    device = _open(folder, ca_file)
    with device.open_bundle(bundle) as opened:
        verified = device.renew(opened, by_device_key=device_key)
    _show_license(verified, json)


@app.command()
def show(folder: Folder, json: Json = False) -> None:
    """Show the device and its licenses. Their keys are never shown.

    Example: corelocker device show phone
    """
    device = _open(folder)
    licenses = [vars(entry) | {"renew_at": entry.renew_at} for entry in device.licenses()]
    for entry in licenses:
        del entry["wrapped_key"], entry["info"]
    document = {
        "device": str(folder),
        "thumbprint": device.thumbprint,
        "app": device.config.app,
        "service": device.config.service,
        "licenses": licenses,
    }

    def text() -> None:
        print(f"{folder}: device {device.thumbprint}, app {device.config.app}, service {device.config.service}")
        for entry in licenses:
            print(f"license {entry['license_id']}: bundle {entry['bundle']}, tier {entry['tier']}, {_end(entry)}")

    emit(json, document, text)


@app.command()
def restore(
    folder: Folder,
    locked: Locked,
    bundle: Bundle,
    tier: Tier = None,
    json: Json = False,
) -> None:
    """Restore a locked file in memory with the stored license, check every byte, and write nothing.

    Example: corelocker device restore phone dist/A.pte --bundle dist/scanner.clkey
    """
    device = _open(folder)
    with device.open_bundle(bundle) as opened, device.restore(locked, opened, tier, check="always") as restored:
        digest, size = hashlib.sha256(restored).hexdigest(), len(restored)
    document = {"file": str(locked), "bytes": size, "sha256": digest}
    emit(json, document, lambda: print(f"{locked}: restored in memory, {human(size)}, every byte checked ({digest})"))


@app.command()
def run(
    folder: Folder,
    locked: Locked,
    bundle: Bundle,
    inputs: Annotated[list[Path], typer.Option("--input", help=".npy file of an input; repeat it for several.")],
    out: Annotated[Path | None, typer.Option(help="Write the outputs to this .npz file.")] = None,
    tier: Tier = None,
    json: Json = False,
) -> None:
    """Restore a locked .pte in memory and run it once with ExecuTorch.

    Example: corelocker device run phone dist/A.pte --bundle dist/scanner.clkey --input photo.npy
    """
    import numpy as np

    from corelocker.files import write_atomically
    from corelocker.runtime.executorch import RestoredModule

    arrays = [_array(path) for path in inputs]
    device = _open(folder)
    with device.open_bundle(bundle) as opened, device.restore(locked, opened, tier) as restored:
        outputs = _forward(RestoredModule(restored), arrays)
    if out is not None:
        with write_atomically(out, force=True) as file:
            np.savez(file, *outputs)
    document = {
        "file": str(locked),
        "outputs": [
            {"shape": list(output.shape), "dtype": str(output.dtype), "largest": int(output.argmax())}
            for output in outputs
        ],
    }

    def text() -> None:
        for number, output in enumerate(outputs):
            print(f"output {number}: {output.dtype}{list(output.shape)}, largest at {int(output.argmax())}")

    emit(json, document, text)


def require_client_packages() -> None:
    """Raise MissingExtraError unless what a device needs of the extra `service` is installed."""
    for package in ("requests", "rfc8785"):
        if find_spec(package) is None:
            raise MissingExtraError(f"{package} is not installed", hint="Run: pip install 'corelocker[service]'")


def _open(folder: Path, ca_file: Path | None = None) -> SoftwareDevice:
    require_client_packages()
    from corelocker.core_dumps import no_core_dumps
    from corelocker.device.folder import DeviceFolder
    from corelocker.device.software import SoftwareDevice

    no_core_dumps()
    if not DeviceFolder(folder).exists:
        raise FileAccessError(f"{folder}: no device there", hint=f"Make one with `corelocker device init {folder}`")
    return SoftwareDevice(folder, ca_file=ca_file)


def _show_license(verified: Verified, as_json: bool) -> None:
    license_ = verified.license
    document: dict[str, Any] = {
        "license_id": license_.license_id,
        "bundle": license_.bundle,
        "model_version": license_.model_version,
        "tier": license_.tier,
        "state": verified.state,
        "expires_at": license_.expires_at,
        "renew_at": license_.renew_at,
    }
    emit(
        as_json,
        document,
        lambda: print(
            f"license {license_.license_id}: bundle {license_.bundle}, tier {license_.tier}, {_end(document)}"
        ),
    )


def _end(license_: dict[str, Any]) -> str:
    if license_["expires_at"] is None:
        return "without an end"
    end, renew = (
        datetime.fromtimestamp(license_[name], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        for name in ("expires_at", "renew_at")
    )
    return f"until {end}, to be renewed from {renew}"


def _text(path: Path) -> str:
    """A small text file, or standard input for "-"."""
    try:
        if str(path) == "-":
            return sys.stdin.read(_MAX_TEXT)
        with path.open(encoding="utf-8") as file:
            return file.read(_MAX_TEXT)
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None


def read_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """The P-256 public key in a PEM file. Raises ConfigError, FileAccessError."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_text(path).encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{path}: not the PEM of a P-256 public key")
    return key


def _array(path: Path) -> npt.NDArray[np.generic]:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FileAccessError(f"{path}: not a .npy file: {error}") from None
    if not isinstance(array, np.ndarray):
        raise FileAccessError(f"{path}: several arrays where one belongs")
    return array


def _forward(module: RestoredModule, arrays: list[npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
    import torch

    try:
        return [output.numpy() for output in module.forward([torch.from_numpy(array) for array in arrays])]
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"the program does not take these inputs: {error}") from None
