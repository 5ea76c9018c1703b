"""Which locks hold by construction, so that they need no measurement."""

from __future__ import annotations

from corelocker.artifacts import Artifact
from corelocker.locking.options import LockOptions
from corelocker.locking.plan import Plan
from corelocker.locking.requirement import UNSAFE_OPTIONS
from corelocker.locking.signs.reading import Signs

MOST_OPEN = 0.1  # of the stored weights that may stay as they are
PADDING = 256  # bytes of a tensor that a file may spend on its description


def why_unsafe(artifact: Artifact, plan: Plan, place: int, options: LockOptions) -> str | None:
    """Why the tier that ships is not known to be worth nothing.

    None where the signs of all weights are taken, or the byte budget of values where they cannot be, of all but a tenth of what the
    file stores.
    """
    if options.effective_preset != "hardened" or plan.tiers[0].removed < 1:
        return UNSAFE_OPTIONS
    tiers = plan.tier_of[place]
    held = 0
    for tensor in artifact.tensors:
        locked = tiers.get(tensor.name)
        by_sign = isinstance(plan.signs[place][tensor.name], Signs)
        if locked is not None and (locked.all() if by_sign else locked.any()):
            held += sum(part.size for part in tensor.parts)
    stored = max(1, artifact.stored_bytes)
    if held >= (1 - MOST_OPEN) * stored - PADDING * len(artifact.tensors):
        return None
    return f"{100 * (1 - held / stored):.0f} % of its weights stay open"
