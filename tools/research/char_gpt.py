"""How much of a language model must be locked before fine-tuning is worth little more than training from scratch?

    python tools/research/char_gpt.py --work FOLDER [--gated] [--epochs 10] [--seed 0] [--rates 0.001,0.003]
        [--reach all,mostly-locked] RULE [RULE ...]

A GPT of characters (4 blocks of width 96, 0.47M parameters, context 64) that is trained for 4 epochs on 2M characters of the Python
standard library, which is there offline. A RULE is what it is in tools/research/hardened.py; "hardened@SHARE" is the preset's. The
attacker knows every locked channel, draws it anew and trains on 10 % of the text with AdamW and a one-cycle rate; the baseline is
an untrained network with the same text, epochs and rates, of which the best counts for either. Measured on files that neither has
seen.
--gated gives it the MLPs of LLaMA (Shazeer 2020, "GLU variants improve transformer": SwiGLU) with as many parameters.
Appends to docs/data/hardened_gpt.json; finished trainings are kept in --work. 100 seconds a training on one core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import sysconfig
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "sdk" / "python")]

from corelocker.audit.attacks import (  # noqa: E402
    Reach,
    reinitialized,
    speeds_of_elements,
)
from corelocker.audit.data import DataSet  # noqa: E402
from corelocker.audit.models import lock_model  # noqa: E402
from corelocker.audit.training import TrainingRecipe, train, untrained  # noqa: E402

from tools.research.hardened import tiers_of  # noqa: E402

CONTEXT, WIDTH, BLOCKS, HEADS, VOCABULARY = 64, 96, 4, 4, 128
TRAIN, TEST = 2_000_000, 200_000  # characters
ORIGINAL = TrainingRecipe(epochs=4, batch=32, learning_rates=(2e-3,), optimizer="adamw", weight_decay=0.01)


class Block(nn.Module):
    """Attention and an MLP, each behind a LayerNorm and beside the residual stream."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        hidden = 8 * WIDTH // 3 if gated else 4 * WIDTH
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.gate_proj = nn.Linear(WIDTH, hidden) if gated else None
        self.up_proj, self.down_proj = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        q, k, v = (f(y).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.o_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        y = self.ln_2(x)
        hidden = F.gelu(self.up_proj(y)) if self.gate_proj is None else F.silu(self.gate_proj(y)) * self.up_proj(y)
        return x + self.down_proj(hidden)


class CharGpt(nn.Module):
    """(n, length) int64 characters to (n, length, 128) float32 logits of the next ones."""

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.h = nn.ModuleList(Block(gated) for _ in range(BLOCKS))
        self.ln_f, self.lm_head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        logits: torch.Tensor = self.lm_head(self.ln_f(x))
        return logits


def text() -> tuple[DataSet, DataSet]:
    """Training and test sequences, from different files of the standard library in a seeded order."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    order = np.random.default_rng(0).permutation(len(files))
    characters = np.frombuffer(b"".join(files[i].read_bytes() for i in order), np.uint8)
    characters = characters[characters < VOCABULARY].astype(np.int64)
    parts = []
    for name, start, count in (("test", 0, TEST), ("train", TEST, TRAIN)):
        part = torch.from_numpy(characters[start : start + count // CONTEXT * CONTEXT + 1])
        parts.append(DataSet(name, part[:-1].view(-1, CONTEXT), part[1:].view(-1, CONTEXT)))
    return parts[1], parts[0]


@torch.no_grad()
def measure(module: nn.Module, test: DataSet) -> dict[str, float]:
    """Share of right next characters in percent, and perplexity."""
    module.eval()
    logits = torch.cat([module(x) for x in test.x.split(256)])
    loss = F.cross_entropy(logits.flatten(0, 1), test.y.flatten())
    right = (logits.argmax(-1) == test.y).float().mean()
    return {"top1": round(100 * float(right), 2), "perplexity": round(math.exp(float(loss)), 3)}


def fit(
    state: dict[str, torch.Tensor],
    module: nn.Module,
    data: DataSet,
    test: DataSet,
    recipe: TrainingRecipe,
    seed: int,
    work: Path,
    speed: dict[str, torch.Tensor] | None = None,
) -> dict[str, float]:
    """The best of the recipe's rates, trained from `state` in a copy of `module`."""
    digest = hashlib.sha256(b"".join(state[n].numpy().tobytes() for n in sorted(state))).hexdigest()
    found = []
    for rate in recipe.learning_rates:
        key = repr((digest, data.digest(), replace(recipe, learning_rates=(rate,)), seed, speed is not None))
        path = work / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        if not path.exists():
            tuned = deepcopy(module)
            tuned.load_state_dict(state)
            train(tuned, data, recipe, rate, seed, speed=speed)
            path.write_text(json.dumps(measure(tuned, test) | {"rate": rate}))
        found.append(json.loads(path.read_bytes()))
        print("  ", found[-1], flush=True)
    return max(found, key=lambda one: float(one["top1"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gated", action="store_true")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", default="0.001,0.003", help="peak learning rates, of attacker and baseline")
    parser.add_argument("--reach", default="all,mostly-locked")
    parser.add_argument("rules", nargs="*")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    train_set, test = text()
    module = untrained(CharGpt(options.gated), 0)
    saved = options.work / ("original-gated.pt" if options.gated else "original.pt")
    if not saved.exists():
        train(module, train_set, ORIGINAL, ORIGINAL.learning_rates[0], 0)
        torch.save(module.state_dict(), saved)
    module.load_state_dict(torch.load(saved, weights_only=True))
    original = measure(module, test)
    print("original", original, flush=True)
    rates = tuple(float(rate) for rate in options.rates.split(","))
    recipe = replace(ORIGINAL, epochs=options.epochs, learning_rates=rates)
    data, fresh = train_set.fraction(0.1, options.seed), untrained(module, options.seed).state_dict()
    baseline = fit(fresh, module, data, test, recipe, options.seed, options.work)
    print("from scratch", baseline, flush=True)
    target = ROOT / "docs" / "data" / "hardened_gpt.json"
    for rule in options.rules:
        plan = tiers_of(rule, module.state_dict())
        locked = lock_model(module, tiers="free=0.5,full=0", tier_of=plan).shipped
        broken = deepcopy(module)
        broken.load_state_dict(locked.state)
        start = reinitialized(locked.state, locked.elements, fresh, options.seed)
        for name in options.reach.split(","):
            reach: Reach = name
            speed = speeds_of_elements(fresh, locked.elements, reach)
            best = fit(start, module, data, test, recipe, options.seed, options.work, speed)
            row = {
                "gated": options.gated, "rule": rule, "reach": reach,
                "key": round(100 * locked.locked_fraction, 2), "key_bytes": locked.locked_bytes,
                "epochs": options.epochs, "rates": rates, "seed": options.seed, "original": original, "scratch": baseline,
                "locked": measure(broken, test), "recovered": best, "leaked": round(best["top1"] - baseline["top1"], 2),
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            rows = json.loads(target.read_bytes()) if target.exists() else []
            what = ("gated", "rule", "reach", "epochs", "seed", "key_bytes")
            rows = [r for r in rows if any(r.get(k, False) != row[k] for k in what) or r["rates"] != list(rates)]
            target.write_text(json.dumps([*rows, row], indent=1) + "\n")


if __name__ == "__main__":
    main()
