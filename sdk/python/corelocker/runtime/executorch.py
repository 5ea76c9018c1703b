"""Running a restored `.pte` with ExecuTorch's Python runtime (extra `export`)."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from corelocker.errors import MalformedArtifactError, MissingExtraError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Kernels of quantized embeddings and of language models with a cache, which register themselves on import.
KERNELS = ("executorch.kernels.quantized", "executorch.extension.llm.custom_ops.custom_ops")


@functools.cache
def _register_kernels() -> None:
    """Make the kernels known that the wheel holds beside the portable ones; a program that needs none runs without."""
    for module in KERNELS:
        try:
            importlib.import_module(module)
        except (ImportError, OSError, AssertionError):
            continue


class RestoredModule:
    """An ExecuTorch program that was loaded from memory.

    ExecuTorch's Python runtime takes `bytes` alone, so a `RestoredFile` is copied once, may be closed after this, and the
    copy lives as long as the module. The C++ loader in sdk/cpp does not copy.
    """

    def __init__(self, program: Buffer, data_map: Buffer | None = None) -> None:
        """Load a program.

        Args:
            program: the `.pte`, usually a `RestoredFile`.
            data_map: the `.ptd` with external weights, if the program has one.

        Raises MissingExtraError without executorch, MalformedArtifactError for what it cannot load.
        """
        try:
            from executorch.extension.pybindings import portable_lib
        except ImportError:
            raise MissingExtraError(
                "running a .pte needs ExecuTorch", hint="pip install 'corelocker[export]'"
            ) from None
        _register_kernels()
        # The runtime keeps pointers into both and no reference to them.
        self._program = bytes(program)
        self._data_map = None if data_map is None else bytes(data_map)
        try:
            self._module = portable_lib._load_for_executorch_from_buffer(self._program, data_map_buffer=self._data_map)
            self.method_names()  # reads the program, so that a bad one is refused here
        except RuntimeError as error:
            raise MalformedArtifactError(f"ExecuTorch cannot load the program: {error}") from None

    def method_names(self) -> list[str]:
        """Names of the program's methods."""
        return list(self._module.method_names())

    def batch_size(self, name: str) -> int:
        """Size of the first axis of a method's first input, as the program was exported; 1 when it has none."""
        sizes = self._module.method_meta(name).input_tensor_meta(0).sizes()
        return int(sizes[0]) if sizes else 1

    def run_method(self, name: str, inputs: Sequence[Any]) -> list[Any]:
        """Run a method on torch tensors; the outputs are the caller's."""
        return list(self._module.run_method(name, tuple(inputs)))

    def forward(self, inputs: Sequence[Any]) -> list[Any]:
        """Run the method "forward"."""
        return self.run_method("forward", inputs)
