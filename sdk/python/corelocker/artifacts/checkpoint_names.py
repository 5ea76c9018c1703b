"""What the names of a checkpoint's tensors tell: the order of layers, their roles and whose BatchNorm is whose.

A checkpoint has no graph, and its writers sort by name. The habits are those of torchvision, timm and transformers.
"""

from __future__ import annotations

import re
from collections import Counter

from corelocker.artifacts.safetensors_header import TensorEntry

EMBEDDING = re.compile(
    r"(^|[._])(embed\w*|\w*embeddings?|wte|wpe|tok\w*|pos(ition\w*)?|\w*bias_table)([._]|$)", re.IGNORECASE
)
WEIGHT = re.compile(r"(^|[._])(weight|kernel|w)$", re.IGNORECASE)
STACKED = re.compile(
    r"(^|[._])(experts?|(\w+_)?moe|switch_(mlp|glu))[._]", re.IGNORECASE
)  # holds one matrix for each expert
BIASES = re.compile(r"[._]bias$", re.IGNORECASE)
RECURRENT = re.compile(r"(^|\.)weight_((?:ih|hh|hr)_l\d+)(?=_reverse$|$)")  # of torch.nn.LSTM and its kin
# Numbers by which a quantized weight beside them is expanded: MLX, GPTQ and AWQ, compressed-tensors, bitsandbytes.
EXPANSION = re.compile(
    r"\.((weight_)?scales?(_inv)?|biases|(weight_)?zeros?(_points?)?|(\w+[._])?absmax)$", re.IGNORECASE
)
# Where a module with such a name stands among its siblings; the others stand in the middle, in the order of their numbers.
HEAD = 3
SIBLING_RANKS: tuple[tuple[int, re.Pattern[str]], ...] = tuple(
    (place, re.compile(f"(?:{words})$", re.IGNORECASE))
    for place, words in (
        (-3, r"\w*embed(der|dings?)?|wte|wpe|tok_\w+|pos|\w*stem\w*|conv_?[01]|conv_proj|input_\w+|to_patch\w*"),
        (-2, r"squeeze\w*|(self_?)?attn|(self_?)?attention|self|encoder"),
        (-1, r"(in_proj|q_?proj|k_?proj|v_?proj|to_[qkv]|w[qkv]|c_attn|qkv|query\w*|key|value)(_weight)?"),
        (1, r"c_proj|o_?proj|out_?proj|to_out|wo|proj|down_?proj|w2|conv_pwl|down_?sample|short_?cut|output|decoder"),
        (2, r"conv_?5|conv_?(head|last)|(head|last|final)_conv|pooler"),
        (HEAD, r"(\w+_)?(heads?|classifiers?|logits)\d*|(fc|linear|classifier|head|last)_?\w*|cls|score|predictions?"),
    )
)
PACKED = ("weight", "qweight", "weight_packed")  # names of codes
TIMM = (("conv_pw", "conv_dw", "conv_pwl"), ("conv_exp", "conv_pwl"), ("conv_dw", "conv_pw"), ("conv_stem", "conv_head"),
        ("conv_stem",))  # fmt: skip  # convolutions of one module in order; their BatchNorms are bn1, bn2, bn3


def natural(name: str) -> list[tuple[int, int, int, str]]:
    """Sort key that puts layer2 before layer10, a stem before the stages, queries before the output that mixes them, and heads
    last (`SIBLING_RANKS`)."""
    key: list[tuple[int, int, int, str]] = []
    for segment in name.split("."):
        word = re.sub(r"^transition(?=\d)", "denseblock", segment)  # denseblock1, transition1, denseblock2
        word = RECURRENT.sub(_recurrent, word)
        pieces = [piece for piece in re.split(r"([0-9]+)|_", word) if piece]
        numbered = [(0, int(p), "") if p.isascii() and p.isdigit() else (1, 0, p) for p in pieces]
        if word != segment:
            numbered.append((2, 0, segment))
        key += [(rank_among_siblings(segment), *piece) for piece in numbered]
    return key


def _recurrent(match: re.Match[str]) -> str:
    """weight_ih_l0, weight_hh_l0, weight_ih_l1 in this order."""
    gate, layer = match[2].split("_l")
    return f"l{layer}_{('ih', 'hh', 'hr').index(gate)}"


def rank_among_siblings(segment: str) -> int:
    """Where a module of that name stands among its siblings: below 0 early, above 0 late."""
    return next((place for place, words in SIBLING_RANKS if words.match(segment)), 0)


def is_batch_norm(entries: dict[str, TensorEntry], module: str) -> bool:
    """Whether a module holds the vectors of a BatchNorm."""
    return all(f"{module}.{leaf}" in entries for leaf in ("weight", "running_mean", "running_var"))


def module_name(name: str) -> str:
    """The module that a weight belongs to."""
    match = WEIGHT.search(name)
    return name[: match.start()] if match else name


def batch_norms_of_convolutions(entries: dict[str, TensorEntry]) -> dict[str, str]:
    """Convolution weight -> its BatchNorm module; one that two convolutions could claim is nobody's."""
    convolutions = {name: entry for name, entry in entries.items() if len(entry.shape) > 2}
    before: set[tuple[str, str]] = set()
    for name, entry in convolutions.items():
        for norm in _named_alike(module_name(name)):
            if is_batch_norm(entries, norm) and entry.shape[1:2] == entries[f"{norm}.weight"].shape != entry.shape[:1]:
                conv, norm = _leaf(module_name(name)), _leaf(norm)
                # What holds for conv1 and bn1 holds for conv2 and bn2, whose widths may not tell.
                first = _number(conv)
                before |= {(_renumbered(conv, n), _renumbered(norm, n)) for n in range(first, first + 9)}
    found = {}
    for name, entry in convolutions.items():
        if follows := _batch_norm_of(entries, module_name(name), entry.shape[0], before):
            found[name] = follows
    claims = Counter(found.values())
    return {name: norm for name, norm in found.items() if claims[norm] == 1}


def expands_codes(entries: dict[str, TensorEntry], name: str) -> bool:
    """Whether a tensor is no layer but holds the scales or offsets of packed codes in the same module."""
    match = EXPANSION.search(name)
    if match is None:
        return False
    codes = (f"{name[: match.start()]}.{leaf}" for leaf in PACKED)
    return any(code in entries and not entries[code].dtype.startswith(("F32", "F16", "BF16")) for code in codes)


def _leaf(module: str) -> str:
    return module.rpartition(".")[2]


def _number(name: str) -> int:
    """The number that the name ends with, or 0."""
    match = re.search(r"\d{1,6}$", name)
    return int(match[0]) if match else 0


def _renumbered(name: str, number: int) -> str:
    return re.sub(r"\d+$", str(number), name)


def _named_alike(module: str) -> list[str]:
    """conv2 -> bn2, norm2 and so on."""
    prefix, leaf = module[: len(module) - len(_leaf(module))], _leaf(module)
    if leaf == "convolution":  # transformers
        return [f"{prefix}normalization"]
    return [prefix + leaf.replace("conv", by) for by in ("bn", "norm", "batchnorm", "batch_norm") if "conv" in leaf]


def _batch_norm_of(
    entries: dict[str, TensorEntry], module: str, channels: int, before: set[tuple[str, str]]
) -> str | None:
    """The BatchNorm module that follows `module`, by the naming habits of torchvision, timm and Sequential containers.

    `before` holds names of convolutions and BatchNorms that come in the other order somewhere in the model, as widths tell:
    there conv1 is followed by bn2.
    """
    leaf = _leaf(module)
    prefix = module[: len(module) - len(leaf)]
    candidates = []
    for norm in _named_alike(module):
        if (leaf, _leaf(norm)) in before:
            norm = _renumbered(norm, _number(norm) + 1)
        candidates.append(norm)
    for convs in TIMM:
        if leaf in convs and all(f"{prefix}{conv}.weight" in entries for conv in convs):
            candidates.append(f"{prefix}bn{convs.index(leaf) + 1}")
    if leaf.isdigit():
        candidates.append(f"{prefix}{int(leaf) + 1}")
    candidates += [f"{module}_bn", f"{prefix}bn", f"{prefix}norm"]
    for candidate in candidates:
        if (
            candidate != module
            and (leaf, _leaf(candidate)) not in before
            and is_batch_norm(entries, candidate)
            and entries[f"{candidate}.weight"].shape == (channels,)
        ):
            return candidate
    return None


def in_order_of_computation(entries: dict[str, TensorEntry]) -> list[str]:
    """The names in the order of computation, as far as names tell."""

    def key(name: str) -> list[tuple[int, int, int, str]]:
        # timm's expansion comes before the depthwise layer where there is a projection behind it.
        prefix, pointwise, leaf = name.rpartition("conv_pw.")
        expands = pointwise and f"{prefix}conv_pwl.weight" in entries
        return natural(f"{prefix}conv_0.{leaf}" if expands else name)

    return sorted(entries, key=key)
