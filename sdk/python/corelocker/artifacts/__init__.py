"""Finished model files and the weights in them.

The package reads every supported format (`.pte` with `.ptd`, `.mlpackage`, `.mlmodelc`, `.safetensors`) into one
view: an `Artifact` with its `WeightTensor`s. Selection, fill, patch and audit work on that view. A new format is one
more adapter here. Nothing in this package imports torch, executorch or coremltools.
"""

from corelocker.artifacts.detect import open_artifact
from corelocker.artifacts.weights import Artifact, Edge, Identity, Part, Quantization, Skipped, SparsePart, WeightTensor

__all__ = [
    "Artifact",
    "Edge",
    "Identity",
    "Part",
    "Quantization",
    "Skipped",
    "SparsePart",
    "WeightTensor",
    "open_artifact",
]
