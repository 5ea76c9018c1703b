"""How a weight changes its sign in place, for each way in which a file stores weights."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import WeightTensor
from corelocker.artifacts.elements import ElementType
from corelocker.artifacts.weights import Floats
from corelocker.bundle.patch_runs import Kind
from corelocker.files import Bytes

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.unsignedinteger]

MOST_ASYMMETRY = 0.25  # of a palette, see `_asymmetry`


@dataclass(frozen=True, eq=False)
class Mirror:
    """A flip of the patch format that turns a weight into its negative.

    Attributes:
        kind, width, constant, table: as of a run of a patch (docs/formats.md, "Patch").
        partners: bool (2^width,), whether an element, as it lies in the file, has a partner other than itself; None for floats,
            all of which have one.
        zeros: bool (2^width,), whether an element is a weight of 0; None for floats.
    """

    kind: Kind
    width: int
    constant: int = 0
    table: bytes = field(default=b"", repr=False)
    partners: Flags | None = field(default=None, repr=False)
    zeros: Flags | None = field(default=None, repr=False)

    def elements(self, raw: Bytes) -> Codes:
        """The elements in file order, (n,), of whole pieces of a run, uint8 (bytes,)."""
        if self.width == 4:
            return np.stack((raw & 15, raw >> 4), axis=-1).reshape(-1)
        return raw.view(f"<u{self.width // 8}")

    def flips(self, raw: Bytes) -> Flags:
        """Whether each element (n,) has a sign that can change: neither zero nor without a partner."""
        elements = self.elements(raw)
        if self.partners is None:
            return np.asarray((elements << elements.dtype.type(1)) != 0)
        return np.asarray(self.partners[elements])

    def count(self, raw: Bytes) -> tuple[int, int]:
        """How many elements are zeros, and how many others have no partner."""
        if self.partners is None or self.zeros is None:
            elements = self.elements(raw)
            return elements.size - int(np.count_nonzero(elements << elements.dtype.type(1))), 0
        found = np.bincount(self.elements(raw), minlength=self.partners.size)
        return int(found[self.zeros].sum()), int(found[~(self.partners | self.zeros)].sum())


@dataclass(frozen=True, eq=False)
class SignEncoding:
    """How the weights of a tensor change their signs.

    Attributes:
        mirrors: the flips that its weights need.
        of_group: int64 (channels or 1, groups), which of them. A channel's elements fall into equally long groups.
    """

    mirrors: tuple[Mirror, ...]
    of_group: npt.NDArray[np.int64] = field(repr=False)


def sign_encoding(tensor: WeightTensor) -> SignEncoding | str:
    """How the weights of a tensor change their signs, or the reason why they cannot."""
    element, quantization = tensor.weight.element, tensor.quantization
    zeros = _zero_points(tensor)
    if element.is_float:
        if zeros is not None or (quantization is not None and quantization.lut is not None):
            return "its floats count from an offset"
        if element.bits not in (16, 32):
            return f"floats of {element.bits} bits have no flip"
        return SignEncoding((Mirror(Kind.XOR_TOP, element.bits),), np.zeros((1, 1), np.int64))
    if quantization is None:
        return "its integers are no weights"
    if element.bits not in (4, 8):
        return f"codes of {element.bits} bits have no flip"
    if quantization.lut is not None:
        return _of_palettes(element, quantization.lut) if zeros is None else "its palette counts from an offset"
    return _of_zero_points(element, np.zeros((1, 1), np.float32) if zeros is None else zeros)


def _zero_points(tensor: WeightTensor) -> Floats | None:
    part = tensor.part("zero_point")
    if part is not None:
        return np.asarray(part.read(), np.float32)
    return None if tensor.quantization is None else tensor.quantization.zero_point


def _of_zero_points(element: ElementType, points: Floats) -> SignEncoding | str:
    """Codes around zero points (channels or 1, groups)."""
    if not np.array_equal(points, np.rint(points)) or np.abs(points).max(initial=0) > 1 << 15:
        return "its zero points are no codes"
    different, of_group = np.unique(points.astype(np.int64), return_inverse=True)
    return SignEncoding(
        tuple(_around(element, int(point)) for point in different), np.asarray(of_group.reshape(points.shape), np.int64)
    )


def _around(element: ElementType, point: int) -> Mirror:
    """Code n becomes 2 * point - n, where that is a code: the largest on the longer side of a zero point have no partner."""
    codes = _codes(element)
    partners = 2 * point - codes
    inside = (partners >= element.low) & (partners <= element.high)
    constant = 2 * point % (1 << element.bits)
    return Mirror(Kind.NEGATE, element.bits, constant, b"", inside & (partners != codes), codes == point)


def _codes(element: ElementType) -> npt.NDArray[np.int32]:
    """The code of each element of 4 or 8 bits as it lies in the file."""
    raw = np.arange(1 << element.bits, dtype=np.int32)
    return np.where(raw > element.high, raw - (1 << element.bits), raw) if element.signed else raw


def _of_palettes(element: ElementType, palettes: Floats) -> SignEncoding | str:
    """Indices into palettes (channels or 1, groups, entries): that of one rank becomes that of the rank reversed."""
    entries, size = palettes.shape[-1], 1 << element.bits
    if element.signed or entries > size:
        return "its indices are no places of a palette"
    flat = palettes.reshape(-1, entries)
    if not np.isfinite(flat).all() or (asymmetry := _asymmetry(flat)) > MOST_ASYMMETRY:
        shown = f" (asymmetry {asymmetry:.3f}, at most {MOST_ASYMMETRY})" if np.isfinite(flat).all() else ""
        return f"its palette has no negative for each entry{shown}"
    order = flat.argsort(axis=1, kind="stable")
    tables = np.tile(np.arange(size, dtype=np.uint8), (len(flat), 1))
    np.put_along_axis(tables, order, order[:, ::-1].astype(np.uint8), axis=1)
    different, of_group = np.unique(tables, axis=0, return_inverse=True)
    own = np.arange(size)
    mirrors = tuple(
        Mirror(Kind.PERMUTE, element.bits, 0, table.tobytes(), table != own, np.zeros(size, np.bool_))
        for table in different
    )
    return SignEncoding(mirrors, np.asarray(of_group.reshape(palettes.shape[:2]), np.int64))


def _asymmetry(palettes: Floats) -> float:
    """How far sorted palettes (n, entries) are from their negatives: root mean square of p[i] + p[-1 - i] over that of p[i]."""
    ordered = np.sort(palettes.astype(np.float64), axis=1)
    size = float(np.sqrt((ordered**2).mean()))
    return float(np.sqrt(((ordered + ordered[:, ::-1]) ** 2).mean())) / size if size else 0.0
