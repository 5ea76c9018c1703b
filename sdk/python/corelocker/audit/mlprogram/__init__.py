"""Runs a Core ML ML Program on Linux, where Core ML itself does not run. torch computes its operations.

What it proves: a package describes the network that it should, with the weight file that it ships with or with other
bytes in its place. It reads `model.mlmodel` and `weight.bin` and nothing else, and expands compressed weights by
itself. So it also checks the adapter of `corelocker.artifacts.coreml`, with which it shares the protobuf reader only.

What it does not prove: the numbers of a device. Every operation is computed in float32, and its result is rounded to
float16 where the program says float16. The Neural Engine, the GPU and Core ML's own CPU kernels round elsewhere, fuse
operations and may keep weights compressed. Differences of a few thousandths are normal. Restored files are compared
by their bytes, not here.

Needs torch. An operation that it does not know raises NotImplementedError.
"""

from corelocker.audit.mlprogram import (  # each registers its operations when it is imported
    compressed_weights,
    elementwise,
    layers,
    normalization,
    pooling,
    recurrent,
    shapes,
)
from corelocker.audit.mlprogram.evaluator import MODEL, MlProgramEvaluator

__all__ = [
    "MODEL",
    "MlProgramEvaluator",
    "compressed_weights",
    "elementwise",
    "layers",
    "normalization",
    "pooling",
    "recurrent",
    "shapes",
]
