"""Programs that nobody vouches for: typed errors, bounded time, nothing else."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corelocker.artifacts.elements import FLOAT32, INT8, UINT4
from corelocker.artifacts.executorch.flatbuffer import FlatBuffer
from corelocker.artifacts.executorch.pte import open_pte
from corelocker.artifacts.layers import Collector, Region, Scales, StoredConstant
from corelocker.artifacts.work_budget import WorkBudget
from corelocker.errors import (
    ArtifactError,
    CoreLockerError,
    FileAccessError,
    MalformedArtifactError,
    UnknownFormatError,
    UnsupportedLayoutError,
)
from corelocker.files import MappedFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.models.exports import exported

SEEDS = [
    ("vgg", "portable"), ("vgg", "xnnpack"), ("mobilenet", "int8"), ("gated", "int4"), ("vgg", "xnnpack-external"),
    ("shared", "methods-coreml"),
]  # fmt: skip
LIMIT = 20  # seconds on a busy machine


def program_size(data: bytes) -> int:
    return int.from_bytes(data[16:24], "little") if data[8:12] == b"eh00" else len(data)


def attempt(path: Path) -> None:
    """Open and use; only typed errors may come out."""
    start = time.process_time()
    try:
        artifact = open_pte(path)
        for tensor in artifact.tensors:
            tensor.runs(tensor.channels - 1)
            with np.errstate(all="ignore"):
                tensor.read([0])
            if tensor.inputs is not None:
                tensor.inputs.run(tensor.inputs.channels - 1)
        names = {tensor.name for tensor in artifact.tensors}
        assert names >= artifact.inputs | artifact.outputs | set(artifact.edges) | set(artifact.untraced)
        for identity in artifact.identities:
            assert identity.file in artifact.files
            assert len({bytes(identity.file.read(o, identity.length)) for o in identity.copies}) == 1
    except (ArtifactError, FileAccessError):
        pass
    assert time.process_time() - start < LIMIT


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A copy of an exported program that may be changed."""

    def copy(name: str, variant: str) -> Path:
        folder = tmp_path_factory.mktemp("hostile")
        for source in exported(name, variant).parent.iterdir():
            (folder / source.name).write_bytes(source.read_bytes())
        return folder / f"{name}.pte"

    return copy


@pytest.mark.parametrize(("name", "variant"), SEEDS, ids=lambda p: p)
def test_flipped_bits(name: str, variant: str, scratch: Callable[[str, str], Path]) -> None:
    path = scratch(name, variant)
    original = path.read_bytes()
    structure = program_size(original)

    @given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 7)), min_size=1, max_size=6), st.booleans())
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def flip(bits: list[tuple[int, int]], anywhere: bool) -> None:
        data = bytearray(original)
        for place, bit in bits:
            data[place % (len(data) if anywhere else structure)] ^= 1 << bit
        path.write_bytes(data)
        attempt(path)

    flip()


@pytest.mark.parametrize(("name", "variant"), SEEDS, ids=lambda p: p)
def test_words_replaced(name: str, variant: str, scratch: Callable[[str, str], Path]) -> None:
    path = scratch(name, variant)
    original = path.read_bytes()
    structure = program_size(original)
    values = st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]) | st.integers(0, 2**17)

    @given(st.lists(st.tuples(st.integers(0, 2**32), values), min_size=1, max_size=4), st.booleans())
    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    def replace(words: list[tuple[int, int]], anywhere: bool) -> None:
        data = bytearray(original)
        for place, value in words:
            at = place % ((len(data) if anywhere else structure) - 4) & ~3
            data[at : at + 4] = struct.pack("<I", value)
        path.write_bytes(data)
        attempt(path)

    replace()


@pytest.mark.parametrize(("name", "variant"), SEEDS, ids=lambda p: p)
def test_truncated(name: str, variant: str, scratch: Callable[[str, str], Path]) -> None:
    path = scratch(name, variant)
    files = {p: p.read_bytes() for p in path.parent.iterdir()}
    for victim, data in files.items():
        for size in {*range(1, 64), *(len(data) * i // 40 for i in range(1, 40)), len(data) - 1}:
            victim.write_bytes(data[:size])
            with pytest.raises(CoreLockerError):
                open_pte(path)
        victim.write_bytes(data)
    open_pte(path)


def test_external_weights_that_are_damaged(scratch: Callable[[str, str], Path]) -> None:
    path = scratch("vgg", "xnnpack-external")
    store = path.with_suffix(".ptd")
    original = store.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(original)
        for place in rng.integers(0, 2000, 3):
            data[place] = rng.integers(0, 256)
        store.write_bytes(data)
        attempt(path)
    store.write_bytes(b"no weights" * 10)
    with pytest.raises(UnknownFormatError, match=r"not a \.ptd"):
        open_pte(path)


class Maker:
    """Writes FlatBuffers from their end to their beginning would be the custom; this one writes forward and links later."""

    def __init__(self, identifier: bytes) -> None:
        self.data = bytearray(4) + identifier

    def table(self, fields: dict[int, bytes]) -> int:
        """A table whose fields hold these bytes; offsets are put in with `link`."""
        slots = max(fields, default=-1) + 1
        vtable, body, places = len(self.data), bytearray(4), []
        for slot in range(slots):
            places.append(len(body) if slot in fields else 0)
            body += fields.get(slot, b"")
        self.data += struct.pack(f"<HH{slots}H", 4 + 2 * slots, len(body), *places)
        at = len(self.data)
        body[:4] = struct.pack("<i", at - vtable)
        self.data += body
        return at

    def field(self, table: int, slot: int) -> int:
        vtable = table - struct.unpack_from("<i", self.data, table)[0]
        return table + int(struct.unpack_from("<H", self.data, vtable + 4 + 2 * slot)[0])

    def link(self, at: int, target: int) -> None:
        struct.pack_into("<I", self.data, at, target - at)

    def vector_of_one_table(self, target_later: int, count: int) -> int:
        """A vector of `count` offsets that all point to the table that is written next at `target_later` bytes behind it."""
        at = len(self.data)
        self.data += struct.pack("<I", count)
        first = len(self.data)
        self.data += b"".join(struct.pack("<I", 4 * (count - i) + target_later) for i in range(count))
        assert first + 4 * count == len(self.data)
        return at


def test_one_table_a_million_times(tmp_path: Path) -> None:
    """Offsets may share their targets: 4 bytes each would stand for a whole method."""
    maker = Maker(b"ET12")
    root = maker.table({1: bytes(4)})
    plans = maker.vector_of_one_table(8, 20000)
    maker.link(maker.field(root, 1), plans)
    maker.data += struct.pack("<HHH", 6, 8, 0) + b"\0\0"  # a vtable without fields, so that the table stands 8 bytes on
    plan = len(maker.data)
    maker.data += struct.pack("<i", 8) + bytes(4)
    assert plan
    struct.pack_into("<I", maker.data, 0, root)
    path = tmp_path / "bomb.pte"
    path.write_bytes(maker.data)
    attempt(path)


def test_a_vector_that_is_read_again_and_again(tmp_path: Path) -> None:
    """Many tensors that share one long vector of sizes."""
    maker = Maker(b"ET12")
    root = maker.table({1: bytes(4)})
    plans = maker.vector_of_one_table(0, 1)
    maker.link(maker.field(root, 1), plans)
    # The vtable has to come before the table; point the only offset at the table behind it.
    plan = maker.table({2: bytes(4)})
    maker.link(plans + 4, plan)
    values = maker.vector_of_one_table(0, 30000)
    maker.link(maker.field(plan, 2), values)
    value = maker.table({0: b"\5\0\0\0", 1: bytes(4)})
    for i in range(30000):
        maker.link(values + 4 + 4 * i, value)
    tensor = maker.table({2: bytes(4)})
    maker.link(maker.field(value, 1), tensor)
    sizes = len(maker.data)
    maker.data += struct.pack("<I", 30000) + bytes(4 * 30000)
    maker.link(maker.field(tensor, 2), sizes)
    struct.pack_into("<I", maker.data, 0, root)
    path = tmp_path / "bomb.pte"
    path.write_bytes(maker.data)
    with pytest.raises(MalformedArtifactError):
        open_pte(path)
    attempt(path)


# --- the readers ---------------------------------------------------------------------------------------


def test_the_budget_is_shared() -> None:
    maker = Maker(b"TEST")
    root = maker.table({0: bytes(4)})
    vector = maker.vector_of_one_table(0, 100)
    maker.link(maker.field(root, 0), vector)
    leaf = maker.table({})
    for i in range(100):
        maker.link(vector + 4 + 4 * i, leaf)
    struct.pack_into("<I", maker.data, 0, root)
    budget = WorkBudget(150)
    buffer = FlatBuffer("test", memoryview(bytes(maker.data)), 0, budget)
    assert len(list(buffer.root().tables(0))) == 100
    with pytest.raises(MalformedArtifactError, match="more objects"):
        list(buffer.root().tables(0))


@pytest.mark.parametrize("root", [0xFFFFFFFF, 0x7FFFFFFF, 30])
def test_a_root_outside_the_buffer(root: int) -> None:
    buffer = FlatBuffer("test", memoryview(struct.pack("<I", root) + b"TEST" + bytes(20)), 0, WorkBudget())
    with pytest.raises(MalformedArtifactError):
        buffer.root()


def test_a_vtable_outside_the_buffer() -> None:
    for distance in (100, -100, -(2**31)):
        data = struct.pack("<I4si", 8, b"TEST", distance) + bytes(20)
        with pytest.raises(MalformedArtifactError):
            FlatBuffer("test", memoryview(data), 0, WorkBudget()).root()


def mapped(tmp_path: Path, size: int = 4096) -> MappedFile:
    path = tmp_path / "data.bin"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    return MappedFile(path, path.name)


def test_a_constant_larger_than_its_bytes(tmp_path: Path) -> None:
    file = mapped(tmp_path)
    with pytest.raises(MalformedArtifactError, match="does not fit"):
        StoredConstant.in_region(Region(file, 0, 100), FLOAT32, (5, 6))
    with pytest.raises(MalformedArtifactError):
        StoredConstant.in_region(Region(file, 0, 100), FLOAT32, (-1, 6))
    with pytest.raises(MalformedArtifactError):
        StoredConstant.in_region(Region(file, 0, 100), FLOAT32, (1,) * 17)
    with pytest.raises(MalformedArtifactError):
        StoredConstant.in_region(Region(file, 0, 100), FLOAT32, (2, 2), (0, 2))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 0, 1, 2), (1, 0, 2, 3), (2, 3, 0, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_parts_of_any_axis(order: tuple[int, ...], axis: int, tmp_path: Path) -> None:
    """A channel read through its Part is the slice of the array, whatever the layout; what has no such form is refused."""
    file, shape = mapped(tmp_path), (3, 4, 2, 5)
    nested = tuple(shape[i] for i in order)
    array = np.frombuffer(file.read(0, 4 * 120), "<i4").reshape(nested).transpose(np.argsort(order))
    constant = StoredConstant.in_region(Region(file, 0, 480), FLOAT32, shape, order)
    try:
        part, file_shape, axes = constant.part("weight", axis)
    except UnsupportedLayoutError:
        place = order.index(axis)
        assert 0 < place < 3  # there is something outside and something inside of the channels
        return
    raw = part.raw().view("<i4").reshape(shape[axis], *file_shape).transpose(0, *(a + 1 for a in axes))
    np.testing.assert_array_equal(raw, np.moveaxis(array, axis, 0))


def test_half_bytes(tmp_path: Path) -> None:
    file = mapped(tmp_path)
    even = StoredConstant.in_region(Region(file, 0, 64), UINT4, (4, 8))
    assert even.part("weight", 0)[0].length == 4
    with pytest.raises(UnsupportedLayoutError, match="inside a byte"):
        even.part("weight", 1)
    with pytest.raises(UnsupportedLayoutError, match="inside a byte"):
        StoredConstant.in_region(Region(file, 0, 64), UINT4, (4, 7)).part("weight", 0)


def test_a_layer_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    file = mapped(tmp_path)
    collector = Collector()
    weight = StoredConstant.in_region(Region(file, 0, 64), UINT4, (4, 7))
    name = collector.layer("forward", "linear", weight)
    tensors, skipped = collector.finish()
    assert not tensors
    assert [(s.name, "inside a byte" in s.reason) for s in skipped] == [(name, True)]


def test_scales_of_input_channels_are_refused(tmp_path: Path) -> None:
    file = mapped(tmp_path)
    scales = StoredConstant.in_region(Region(file, 100, 16), FLOAT32, (4,))
    weight = StoredConstant.in_region(Region(file, 0, 32), INT8, (8, 4))
    collector = Collector()
    weight = StoredConstant(weight.region, INT8, weight.shape, weight.strides, scales=Scales(scales, 1))
    collector.layer("forward", "linear", weight)
    assert "output channels" in collector.finish()[1][0].reason


def test_vectors_that_share_their_bytes(tmp_path: Path) -> None:
    """A fresh BatchNorm has equal mean and shift, and equal scale and variance; the weight stays the first part."""
    file = mapped(tmp_path)
    ones, zeros, start = (StoredConstant.in_region(Region(file, at, 16), FLOAT32, (4,)) for at in (100, 200, 0))
    collector = Collector()
    weight = StoredConstant.in_region(Region(file, 0, 64), FLOAT32, (4, 4))
    name = collector.layer("forward", "linear", weight, [("bias", start)])
    collector.normalize(name, [("gamma", ones), ("beta", zeros), ("mean", zeros), ("variance", ones)])
    (tensor,), _ = collector.finish()
    assert [part.kind for part in tensor.parts] == ["weight", "gamma", "beta"]
    assert not collector.normalize(name, [("gamma", ones)])


def test_one_layer_for_one_place(tmp_path: Path) -> None:
    file = mapped(tmp_path)
    collector = Collector()
    weight = StoredConstant.in_region(Region(file, 0, 64), FLOAT32, (4, 4))
    first = collector.layer("forward", "linear", weight)
    assert collector.layer("other", "linear", weight.permute((1, 0)).permute((1, 0))) == first
    assert len(collector.finish()[0]) == 1


def test_names_from_the_file_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "m.pte"
    data = (
        exported("vgg", "external")
        .read_bytes()
        .replace(b"hidden.weight", b"hidd\x1b[31might")
        .replace(b"fc.weight", b"fc\xff\xfeeight")
    )
    path.write_bytes(data)
    store = exported("vgg", "external").with_suffix(".ptd").read_bytes()
    path.with_suffix(".ptd").write_bytes(
        store.replace(b"hidden.weight", b"hidd\x1b[31might").replace(b"fc.weight", b"fc\xff\xfeeight")
    )
    names = [tensor.name for tensor in open_pte(path).tensors]
    assert names == ["features.0.0.weight", "features.3.0.weight", "forward.2.linear", "forward.3.linear"]
