"""What stands in the place of a locked channel.

`zero` is the paper's choice. The channel is silent, and its place is plain to see. `decoy` draws a channel that the
layer's remaining channels could have had. Each decoy imitates the statistics of one of them (the target), so that no
score of single channels tells decoys from the rest. A decoy never depends on a locked byte. Decoys are drawn as
floats and then quantized as an exporter would: the scale follows from the values and from how far the target's codes
reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from corelocker.artifacts import WeightTensor
from corelocker.locking.fill.draw import draw_decoys
from corelocker.locking.fill.encode import Filled, encode_decoys
from corelocker.locking.fill.ordering import Ticket
from corelocker.locking.fill.pool import choose_pool, others, pool_values
from corelocker.locking.fill.silence import silent_channels
from corelocker.locking.fill.statistics import code_statistics
from corelocker.locking.layout import Indices
from corelocker.locking.options import Fill


def fill_group(
    tensors: Sequence[WeightTensor], channels: Indices, fill: Fill, generator: np.random.Generator, ticket: Ticket
) -> list[Filled]:
    """New bytes for the locked `channels` of tensors that hold the same weights; the first is the best-preserved copy."""
    leader = tensors[0]
    remaining = others(leader.channels, channels)
    if fill == "zero":
        return [silent_channels(tensor, channels, remaining) for tensor in tensors]
    pool = choose_pool(leader, remaining, generator)
    values = pool_values(leader, pool, generator)
    decoys, targets = draw_decoys(values, code_statistics(leader, pool), channels.size, generator, ticket)
    noise = generator.standard_normal((2, channels.size), np.float32)
    filled = [encode_decoys(tensor, leader, decoys, channels, pool, targets, noise) for tensor in tensors]
    for tensor in tensors:
        tensor.release()
    return filled
