"""What stands in the place of a locked channel.

`zero` is the paper's choice: the channel is silent, and its place is plain to see. `decoy` draws a channel that the layer's
remaining channels could have had: each decoy imitates the statistics of one of them (the target), so that no score of single
channels tells decoys from the rest, and it never depends on a locked byte. Decoys are drawn as floats and then quantized as
an exporter would: the scale follows from the values and from how far the target's codes reach.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from corelocker.artifacts import Part, WeightTensor
from corelocker.artifacts.elements import Numbers
from corelocker.artifacts.weights import Floats, SparsePart
from corelocker.files import Bytes
from corelocker.locking.options import Fill

Indices = npt.NDArray[np.int64]
Rows = Bytes | Sequence[Bytes]  # the bytes of each channel; where they have equally many, the rows of one array
POOL_BYTES = 1 << 20  # remaining channels that are looked at, of one layer
DRAWS = 48  # sets of targets that compete
TRIED = 1 << 19  # numbers that are tried at a time
WIDE = 1024  # elements of a channel from which on one candidate has its target's statistics
STATISTICS: tuple[str, ...] = ("l1", "max", "kurtosis", "distance to the mean", "alignment with the mean")
CODE_STATISTICS: tuple[str, ...] = ("scale", "reach of the codes")
JITTER = 0.02  # greatest relative noise, so that no decoy repeats the numbers of its target


@dataclass
class Balance:
    """Running sums over all layers of how far the decoys' ranks lie from those of a fair draw.

    For each statistic the first sum sees decoys that tend to be large or small, the second decoys that crowd the middle.
    """

    lean: Floats = field(default_factory=lambda: np.zeros(len(STATISTICS + CODE_STATISTICS), np.float32))
    crowd: Floats = field(default_factory=lambda: np.zeros(len(STATISTICS + CODE_STATISTICS), np.float32))

    def add(self, places: Floats, ranks: Floats) -> None:
        """Take in the ranks of decoys, (n, len(STATISTICS + CODE_STATISTICS)), and for comparison those of all their pool."""
        self.lean += (places - 0.5).sum(axis=0)
        self.crowd += (np.abs(places - 0.5) - _spread(ranks)).sum(axis=0)


def _spread(ranks: Floats) -> Floats:
    """How far the ranks of a statistic are from the middle on average: a quarter, unless many channels have the same number."""
    return np.asarray(np.abs(ranks - np.float32(0.5)).mean(axis=0), np.float32)


class Turn:
    """A group's turn at the balance of all groups.

    Groups are filled side by side in threads, but they aim one after the other, so a plan always gives the same decoys.

    Args:
        balance: shared by all groups.
        before: the turn of the group before.
        draws: how often this group will take the balance.
    """

    def __init__(self, balance: Balance, before: Turn | None = None, draws: int = 1) -> None:
        self._balance = balance
        self._before = before
        self._draws = draws
        self._over = threading.Event()

    @contextmanager
    def balance(self) -> Iterator[Balance]:
        """The balance, once every group before has had it."""
        if self._before is not None:
            self._before._over.wait()
            self._before = None
        yield self._balance
        self._draws -= 1
        if self._draws <= 0:
            self.end()

    def end(self) -> None:
        """Let the next group go on; also when this one failed."""
        self._over.set()


def statistics(values: Floats, mean: Floats, others: int | None = None) -> Floats:
    """What a detector could rank channels (n, elements) by: float32 (n, len(STATISTICS)).

    `mean` (elements,) is the layer's mean channel. It contains the channels themselves; for one that is still to join
    `others` channels, `others` says how many they are.
    """
    magnitudes = np.abs(values)
    total, largest = magnitudes.sum(axis=1), magnitudes.max(axis=1)
    squares = np.multiply(magnitudes, magnitudes, out=magnitudes)
    energy = squares.sum(axis=1)
    elements = values.shape[1]
    average = values.mean(axis=1)
    variance = energy / elements - average**2
    cubes = np.einsum("ce,ce->c", squares, values) / elements
    fourth = np.einsum("ce,ce->c", squares, squares) / elements
    moment = fourth - 4 * average * cubes + 6 * average**2 * energy / elements - 3 * average**4
    # einsum, not @: BLAS threads would spin beside the little there is to do.
    along = np.einsum("ce,e->c", values, mean)
    spread = np.maximum(energy - 2 * along + np.einsum("e,e->", mean, mean), 0)
    if others is not None:
        along = (others * along + energy) / (others + 1)
        spread = spread * (others / (others + 1)) ** 2
    columns = (
        total,
        largest,
        moment / np.maximum(variance**2, 1e-30),
        np.sqrt(spread),
        along / np.sqrt(np.maximum(energy, 1e-30)),
    )
    return np.stack(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class Filled:
    """New bytes for the locked channels of one tensor.

    `parts[i][j]` is what part `i` of the tensor holds for the j-th locked channel, uint8.
    """

    tensor: WeightTensor
    channels: Indices
    parts: list[Rows]


def fill_group(
    tensors: Sequence[WeightTensor], channels: Indices, fill: Fill, generator: np.random.Generator, turn: Turn
) -> list[Filled]:
    """New bytes for the locked `channels` of tensors that hold the same weights; the first is the best-preserved copy."""
    leader = tensors[0]
    remaining = _others(leader.channels, channels)
    if fill == "zero":
        return [_silence(tensor, channels, remaining) for tensor in tensors]
    pool = _pool(leader, remaining, generator)
    values = _pool_values(leader, pool, generator)
    decoys, targets = _draw(values, _code_statistics(leader, pool), channels.size, generator, turn)
    noise = generator.standard_normal((2, channels.size), np.float32)
    filled = [_encode(tensor, leader, decoys, channels, pool, targets, noise) for tensor in tensors]
    for tensor in tensors:
        tensor.release()
    return filled


def _others(count: int, channels: Indices) -> Indices:
    """Those of `count` channels that are not among `channels`."""
    rest = np.ones(count, bool)
    rest[channels] = False
    return np.flatnonzero(rest)


def _pool(tensor: WeightTensor, remaining: Indices, generator: np.random.Generator) -> Indices:
    limit = max(128, POOL_BYTES // (tensor.weight.elements * 4))
    if remaining.size <= limit:
        return remaining
    return np.sort(generator.choice(remaining, limit, replace=False))


def _pool_values(tensor: WeightTensor, pool: Indices, generator: np.random.Generator) -> Floats:
    """Dequantized channels in file order. Pruned places of a sparse tensor are refilled from the channel's stored elements,
    because the decoy's stored places are others."""
    values = tensor.values(pool)
    if isinstance(tensor.weight, SparsePart):
        for row, channel in enumerate(pool):
            mask = tensor.weight.mask[channel]
            if mask.any():
                values[row, ~mask] = generator.choice(values[row, mask], int((~mask).sum()))
    return _before_rounding(tensor, pool, values, generator)


def _before_rounding(tensor: WeightTensor, pool: Indices, values: Floats, generator: np.random.Generator) -> Floats:
    """Values as the exporter may have had them, where their codes reach to both ends of two's complement (7 and -8).

    It divided the largest of each group to 7.5, which is read as 7 or 8, and rounded the others. Shuffled as they are
    read, they would come together in groups whose largest is larger, or smaller, than what the layer's groups have.
    """
    scale = tensor.part("scale")
    if scale is None or tensor.quantization is None or not isinstance(tensor.weight, Part):
        return values
    codes = _centred_codes(tensor, pool, scale.elements)
    short, long = sorted(_ends(codes))
    if short == 0 or long != short + 1:
        return values
    step = np.asarray(scale.read(pool), np.float32)[:, :, None]
    extreme, where = _extremes(codes)
    end = (short + long) / 2
    exact = np.clip(codes + generator.random(codes.shape, np.float32) - np.float32(0.5), -end, end)
    whole = np.where(np.abs(extreme) >= short, np.sign(extreme) * end, extreme)
    np.put_along_axis(exact, where[:, :, None], whole[:, :, None], axis=2)
    return np.asarray((exact * step).reshape(values.shape), np.float32)


def _ends(codes: Floats) -> tuple[float, float]:
    """How far the codes reach up and down."""
    up, down = float(codes.max(initial=0)), float(-codes.min(initial=0))
    return up, down


def _code_statistics(tensor: WeightTensor, pool: Indices) -> Floats:
    """What quantization shows of the pool's channels, (pool, len(CODE_STATISTICS)); 0 for a layer without own scales."""
    scale = tensor.part("scale")
    if scale is None or tensor.quantization is None:
        return np.zeros((pool.size, len(CODE_STATISTICS)), np.float32)
    codes = _centred_codes(tensor, pool, scale.elements)
    reach = np.abs(codes).max(axis=2).mean(axis=1)
    return np.stack([np.asarray(scale.read(pool), np.float32).mean(axis=1), reach], axis=1)


def _centred_codes(tensor: WeightTensor, channels: Indices, groups: int) -> Floats:
    """Codes less their zero points, float32 (n, groups, elements of a group)."""
    codes = np.asarray(tensor.weight.read(channels), np.float32).reshape(channels.size, groups, -1)
    part = tensor.part("zero_point")
    zero = tensor.quantization.zero_point if tensor.quantization is not None else None
    if part is not None:
        zero = np.asarray(part.read(channels), np.float32)
    elif zero is not None and zero.shape[0] > 1:
        zero = zero[channels]
    return codes if zero is None else codes - np.repeat(zero, groups // zero.shape[1], axis=1)[:, :, None]


def _draw(
    values: Floats, shown: Floats, count: int, generator: np.random.Generator, turn: Turn
) -> tuple[Floats, Indices]:
    """`count` decoys (count, elements) and for each the row of `values` that it imitates.

    `shown` holds what else can be seen of those rows (`_code_statistics`); a decoy takes it over from its target.

    In a wide layer any one candidate has its target's statistics; in a narrow one the nearest of several is taken.
    """
    elements = values.shape[1]
    mean = values.mean(axis=0)
    table = statistics(values, mean)
    sorted_table = np.sort(table, axis=0)
    ranks, reaches = _ranks(sorted_table, table), table[:, STATISTICS.index("max")]
    shown_ranks = _ranks(np.sort(shown, axis=0), shown)
    all_ranks = np.concatenate([ranks, shown_ranks], axis=1)

    def misfit(candidates: Floats, of: Indices) -> tuple[Floats, Floats]:
        places = _ranks(sorted_table, statistics(candidates, mean, values.shape[0]))
        return ((places - ranks[of]) ** 2).sum(axis=1), places

    ways: tuple[Callable[..., Floats], ...] = (_shuffled, _deviated, _mixed)
    if elements >= WIDE:
        with turn.balance() as balance:
            targets = _targets(all_ranks, count, generator, balance)
            balance.add(all_ranks[targets], all_ranks)
        # Which way suits is a matter of the layer's structure: try them on a few targets, then keep to one. Not `_mixed`: with
        # one candidate each, decoys would all have the same kurtosis.
        few, largest = targets[:8], _wanted(reaches, targets, generator)
        errors = [float(misfit(way(values, mean, few, largest[:8], generator), few)[0].sum()) for way in ways[:2]]
        return ways[int(np.argmin(errors))](values, mean, targets, largest, generator), targets
    tries = min(2 * WIDE // elements, 16)
    step = max(1, TRIED // (len(ways) * tries * elements))
    with turn.balance() as balance:
        targets = _targets(all_ranks, count, generator, balance)
        decoys, places = np.empty((count, elements), np.float32), all_ranks[targets]
        for first in range(0, count, step):
            of = np.repeat(targets[first : first + step], tries)
            largest = _wanted(reaches, of, generator)
            rivals = np.stack([way(values, mean, of, largest, generator) for way in ways])
            away, found = misfit(rivals.reshape(-1, elements), np.tile(of, len(ways)))
            # (ways, targets, tries) -> the nearest of each target's rivals
            best = np.argmin(away.reshape(len(ways), -1, tries).swapaxes(0, 1).reshape(of.size // tries, -1), axis=1)
            way, trial = np.divmod(best, tries)
            chosen = (way, np.arange(best.size) * tries + trial)
            rows = slice(first, first + best.size)
            decoys[rows] = rivals[chosen]
            places[rows, : found.shape[1]] = found.reshape(*rivals.shape[:2], -1)[chosen]
        balance.add(places, all_ranks)
    return decoys, targets


def _ranks(sorted_table: Floats, table: Floats) -> Floats:
    """Place of each statistic among the remaining channels, between 0 and 1."""
    n = sorted_table.shape[0]
    columns = range(table.shape[1])
    low = np.stack([np.searchsorted(sorted_table[:, c], table[:, c], "left") for c in columns], axis=1)
    high = np.stack([np.searchsorted(sorted_table[:, c], table[:, c], "right") for c in columns], axis=1)
    return np.asarray((low + high) / (2 * n), np.float32)


def _targets(ranks: Floats, count: int, generator: np.random.Generator, balance: Balance) -> Indices:
    """The rows to imitate: of several random sets the one that leaves the decoys' ranks most like a fair draw."""
    n = ranks.shape[0]
    best, best_cost, spread = np.zeros(count, np.int64), np.inf, _spread(ranks)
    step = max(1, TRIED // (count * ranks.shape[1]))
    for first in range(0, DRAWS, step):
        draws = min(step, DRAWS - first)
        if count > n:
            sets = generator.integers(0, n, (draws, count))
        else:
            sets = generator.permuted(np.broadcast_to(np.arange(n), (draws, n)), axis=1)[:, :count]
        off = ranks[sets] - np.float32(0.5)
        lean, crowd = off.sum(axis=1), (np.abs(off) - spread).sum(axis=1)
        costs = ((balance.lean + lean) ** 2 + 4 * (balance.crowd + crowd) ** 2 + lean**2 / count).sum(axis=1)
        least = int(np.argmin(costs))
        if costs[least] < best_cost:
            best, best_cost = sets[least], float(costs[least])
    return best


def _wanted(reaches: Floats, targets: Indices, generator: np.random.Generator) -> Floats:
    """The largest magnitude that each decoy is to have, (targets, 1).

    It lies between its target's and the next larger or smaller one of the pool's `reaches` (n,), on the target's half: of the
    same rank among them, and no repetition.
    """
    order = np.argsort(reaches)
    rank = np.empty(order.size, np.int64)
    rank[order] = np.arange(order.size)
    beside = rank[targets] + generator.choice((-1, 1), targets.size)
    own, next_ = reaches[targets], reaches[order[np.clip(beside, 0, order.size - 1)]]
    return np.asarray(own + generator.random(targets.size, np.float32) / 2 * (next_ - own), np.float32)[:, None]


def _jittered(candidates: Floats, generator: np.random.Generator, largest: Floats | None = None) -> Floats:
    """Candidates (n, elements) moved by up to JITTER, and less where that led over `largest` (n, 1); one element is that large."""
    moved = generator.random(candidates.shape, np.float32)
    moved -= 0.5
    moved *= 2 * JITTER
    moved += 1
    moved *= candidates
    if largest is not None:
        magnitudes = np.abs(moved)
        beyond = np.flatnonzero(magnitudes > largest)
        if beyond.size:
            rows, places = np.divmod(beyond, moved.shape[1])
            numbers, most = candidates[rows, places], largest[rows, 0]
            room = np.minimum(most / np.abs(numbers) - 1, JITTER)
            draws = generator.random(rows.size, np.float32)
            inside = np.where(room > 0, np.abs(numbers) * (1 + room * (2 * draws - 1)), most * (1 - JITTER * draws))
            moved[rows, places] = np.copysign(inside, numbers)
        each, top = np.arange(len(moved)), magnitudes.argmax(axis=1)
        moved[each, top] = np.copysign(largest[:, 0], moved[each, top])
    return moved


def _shuffled(
    values: Floats, mean: Floats, targets: Indices, largest: Floats, generator: np.random.Generator
) -> Floats:
    """The targets' elements in another order."""
    return _jittered(_permuted(values[targets], generator), generator, largest)


def _deviated(
    values: Floats, mean: Floats, targets: Indices, largest: Floats, generator: np.random.Generator
) -> Floats:
    """The targets' deviations from the mean channel in another order."""
    return _jittered(mean + _permuted(values[targets] - mean, generator), generator, largest)


def _permuted(rows: Floats, generator: np.random.Generator) -> Floats:
    """Each row (n, elements) in an order of its own.

    Wide rows by one order that begins at another place for each. Narrow ones, where that would repeat itself, by 16-bit keys, which
    numpy sorts by radix. Generator.permuted takes longer and holds the interpreter meanwhile, which the threads that hash and write
    need.
    """
    count, elements = rows.shape
    if elements >= WIDE:
        order = np.tile(generator.permutation(elements), 2)
        permuted = np.empty_like(rows)
        starts = generator.integers(0, elements, (count,)).tolist()
        for row, start in enumerate(starts):
            rows[row].take(order[start : start + elements], out=permuted[row], mode="clip")
        return permuted
    keys = generator.integers(0, 1 << 16, rows.shape, np.uint16).argsort(axis=1, kind="stable")
    keys += np.arange(count)[:, None] * elements
    return rows.reshape(-1).take(keys)


def _mixed(values: Floats, mean: Floats, targets: Indices, largest: Floats, generator: np.random.Generator) -> Floats:
    """Each element from another channel, brought to the target's size."""
    rows = values[generator.integers(0, values.shape[0], (targets.size, mean.size)), np.arange(mean.size)]
    wanted, size = (np.sqrt((r * r).mean(axis=1, keepdims=True)) for r in (values[targets], rows))
    return _jittered(rows * (wanted / np.maximum(size, 1e-30)), generator, largest)


def _to_order_of(tensor: WeightTensor, leader: WeightTensor, decoys: Floats) -> Floats:
    """Decoys in the leader's file order to those in the tensor's."""
    if tensor is leader:
        return decoys
    n = decoys.shape[0]
    logical = decoys.reshape(n, *leader.file_shape).transpose(0, *(a + 1 for a in leader.axes))
    logical = logical.reshape(n, *tensor.shape[1:])
    inverse = np.argsort(tensor.axes)
    return np.ascontiguousarray(logical.transpose(0, *(a + 1 for a in inverse))).reshape(n, -1)


def _encode(
    tensor: WeightTensor,
    leader: WeightTensor,
    decoys: Floats,
    channels: Indices,
    pool: Indices,
    targets: Indices,
    noise: Floats,
) -> Filled:
    values = _to_order_of(tensor, leader, decoys).copy()
    donors = pool[targets]
    if tensor is not leader:
        # A BatchNorm folded into one copy scales its channels; the target's scaling is the decoy's.
        own, led = (np.sqrt((t.values(donors) ** 2).mean(axis=1, keepdims=True)) for t in (tensor, leader))
        values = values * np.where(led > 0, own / np.maximum(led, 1e-30), 1)
    encoded: list[Rows] = []
    weight, scale_part, zero_part = tensor.weight, tensor.part("scale"), tensor.part("zero_point")
    scale, zero = _scales_and_zeros(tensor, values, pool, targets)
    codes: Numbers = values
    if tensor.quantization is not None:
        codes = tensor.quantization.quantize(values, scale, zero, channels, weight.element)
    encoded.append(_weight_bytes(weight, codes, channels))
    for part in tensor.companions:
        if part is scale_part and scale is not None:
            numbers: Numbers = scale
        elif part is zero_part and zero is not None:
            numbers = zero
        elif part.factor is not None and scale is not None:
            numbers = scale * np.float32(part.factor)
        else:
            numbers = _companions(part, tensor, donors, pool, scale, noise)
        encoded.append(part.element.encode(numbers))
    return Filled(tensor, channels, encoded)


def _weight_bytes(weight: Part | SparsePart, codes: Numbers, channels: Indices) -> Rows:
    if isinstance(weight, Part):
        return weight.element.encode(codes)
    return [weight.element.encode(codes[i : i + 1, weight.mask[c]])[0] for i, c in enumerate(channels)]


def _scales_and_zeros(
    tensor: WeightTensor, values: Floats, pool: Indices, targets: Indices
) -> tuple[Floats | None, Floats | None]:
    """Scale and zero point (n, groups) by which the codes of `values` reach as far as their targets' do.

    Where codes reach to both ends of two's complement (7 and -8), the exporter divided the largest of each group to what lies
    between (7.5), and the code shows its sign: a decoy's largest takes sign and code of its target's (`values` is changed).
    """
    scale_part, zero_part = tensor.part("scale"), tensor.part("zero_point")
    donors = pool[targets]
    zero = np.asarray(zero_part.read(donors), np.float32) if zero_part is not None else None
    if scale_part is None or tensor.quantization is None:
        return None, zero
    groups = scale_part.elements
    wanted = values.reshape(values.shape[0], groups, -1)
    skewed = zero is not None and zero_part is not None and zero.shape[1] == groups and np.ptp(zero_part.read()) > 0
    if skewed:
        low, high = np.minimum(wanted.min(axis=2), 0), np.maximum(wanted.max(axis=2), 0)
        codes = np.asarray(tensor.weight.read(donors), np.float32).reshape(wanted.shape)
        found = (high - low) / np.maximum(codes.max(axis=2) - codes.min(axis=2), 1)
    else:
        known = _extremes(_centred_codes(tensor, pool, groups))[0]
        largest, where = _extremes(wanted)
        up, down = _ends(known)
        known = known[targets]
        uneven = min(up, down) > 0 and abs(up - down) == 1
        steps = np.where(uneven & (np.abs(known) >= min(up, down)), (up + down) / 2, np.abs(known))
        found = np.abs(largest) / np.maximum(steps, 1)
    old = np.abs(np.asarray(scale_part.read(donors), np.float32))
    stored = scale_part.element.encode(np.where(found > 0, found, old).astype(np.float32))
    scale = np.asarray(scale_part.element.decode(stored), np.float32)
    scale = np.where(scale > 0, scale, old)  # too small for the file's float: the donor's own is not
    if not skewed and uneven:
        # The exporter's rounding decided which of the two ends 7.5 steps became.
        ends = np.where(np.abs(known) >= min(up, down), known * scale, np.copysign(largest, known))
        np.put_along_axis(wanted, where[:, :, None], ends[:, :, None], axis=2)
    if skewed and zero_part is not None:
        first = codes.min(axis=2) - low / scale
        zero = np.asarray(np.clip(np.rint(first), zero_part.element.low, zero_part.element.high), np.float32)
    return scale, zero


def _extremes(grouped: Floats) -> tuple[Floats, Indices]:
    """The element of each group (n, groups, elements) that is furthest from 0, with its sign, and where it is: (n, groups)."""
    where = np.abs(grouped).argmax(axis=2)
    return np.take_along_axis(grouped, where[:, :, None], axis=2)[:, :, 0], where


def _companions(
    part: Part, tensor: WeightTensor, donors: Indices, pool: Indices, scale: Floats | None, noise: Floats
) -> Numbers:
    """Biases and BatchNorm numbers of the donors, a little moved."""
    numbers = np.asarray(part.read(donors), np.float64)
    spread = float(np.asarray(part.read(pool), np.float64).std())
    scale_part = tensor.part("scale")
    if (
        part.kind == "bias"
        and not part.element.is_float
        and scale is not None
        and scale_part is not None
        and scale.shape[1] == 1
    ):
        # An integer bias counts in steps of input scale x weight scale; keep its value, not its count.
        old = np.asarray(scale_part.read(donors), np.float64)
        numbers = numbers * np.where(scale > 0, old / np.maximum(scale, 1e-30), 1)
    if part.kind == "variance":
        return np.asarray(np.abs(numbers * (1 + JITTER * noise[1][:, None])), np.float32)
    moved = numbers + JITTER * spread * noise[0][:, None]
    return np.asarray(moved if part.element.is_float else np.rint(moved), np.float64)  # type: ignore[return-value]


def _silence(tensor: WeightTensor, channels: Indices, remaining: Indices) -> Filled:
    """A channel whose output is 0. Its scale becomes the median of the layer's, because its own tells its weights' size."""
    encoded: list[Rows] = []
    n = channels.size
    own: dict[str, Floats] = {}
    for kind in ("scale", "zero_point"):
        part = tensor.part(kind)
        if part is not None:
            median = np.median(np.asarray(part.read(remaining[:4096]), np.float32), axis=0, keepdims=True)
            median = np.where(median == 0, 1, median) if kind == "scale" else np.rint(median)
            own[kind] = np.repeat(np.asarray(part.element.decode(part.element.encode(median)), np.float32), n, axis=0)
    values = np.zeros((n, tensor.weight.elements), np.float32)
    codes: Numbers = values
    if tensor.quantization is not None:
        codes = tensor.quantization.quantize(
            values, own.get("scale"), own.get("zero_point"), channels, tensor.weight.element
        )
    encoded.append(_weight_bytes(tensor.weight, codes, channels))
    for part in tensor.companions:
        constant = np.full((n, part.elements), 1 if part.kind == "variance" else 0, np.float32)
        numbers = own.get(part.kind, constant)
        if part.factor is not None:
            numbers = numbers * np.float32(part.factor)
        encoded.append(part.element.encode(numbers))
    return Filled(tensor, channels, encoded)


def fill_inputs(tensor: WeightTensor, columns: Indices, fill: Fill, generator: np.random.Generator) -> list[Bytes]:
    """New bytes for input channels of a consumer: for each the pieces of the run `tensor.inputs.run(column)`, uint8.

    Decoys take each output's weights from another input channel of that output, so a quantized row keeps the range of its
    codes. Copies of a tensor in another layout get the same numbers from an equally seeded generator.
    """
    part, weight = tensor.inputs, tensor.weight
    if part is None or not isinstance(weight, Part):
        raise TypeError(tensor.name)
    image = part.file.data[part.offset :]
    if fill == "zero":
        image = _zero_image(tensor, weight)
    view = np.lib.stride_tricks.as_strided(
        image, (part.channels, part.count, part.length), (part.channel_stride, part.stride, 1), writeable=False
    )
    if fill == "zero":
        return [np.ascontiguousarray(view[c]).reshape(-1) for c in columns]
    width = max(1, part.element.bits // 8)
    elements = view.reshape(part.channels, -1, width)
    kernel = elements.shape[1] // tensor.channels
    free = _others(part.channels, columns)
    filled = []
    for _ in columns:
        picked = np.repeat(generator.choice(free, tensor.channels), kernel)
        numbers = part.element.decode(np.ascontiguousarray(elements[picked, np.arange(picked.size)]).reshape(1, -1))
        if part.element.is_float:
            numbers = _jittered(np.asarray(numbers, np.float32), generator)
        filled.append(part.element.encode(numbers)[0])
    return filled


def _zero_image(tensor: WeightTensor, weight: Part) -> Bytes:
    """The bytes of the weight (from its first to its last) if every weight were 0."""
    image = np.zeros(weight.extent[1], np.uint8)
    if tensor.quantization is None:
        return image
    scale, zero = (tensor.part(kind) for kind in ("scale", "zero_point"))
    codes = tensor.quantization.quantize(
        np.zeros((tensor.channels, weight.elements), np.float32),
        np.asarray(scale.read(), np.float32) if scale else None,
        np.asarray(zero.read(), np.float32) if zero else None,
        np.arange(tensor.channels),
        weight.element,
    )
    shape, strides = (weight.channels, weight.count, weight.length), (weight.channel_stride, weight.stride, 1)
    np.lib.stride_tricks.as_strided(image, shape, strides)[:] = weight.element.encode(codes).reshape(shape)
    return image
