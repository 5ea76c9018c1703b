"""A torch model as an artifact: its state dict, in a safetensors file that is opened like any other.

Criteria that run the model and the audit see a model by its weights, as locking sees a finished file.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from corelocker.artifacts import Artifact, Edge
from corelocker.artifacts.safetensors import open_safetensors
from corelocker.errors import FileAccessError, MalformedArtifactError
from corelocker.extras import need

if TYPE_CHECKING:
    from torch import Tensor, nn

PICKLED = (".pt", ".pth", ".bin", ".ckpt")  # suffixes of what torch.save writes
INSIDE = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights


@dataclass(frozen=True)
class ModuleGraph:
    """Which layer reads whose channels, by the names of the state dict.

    Attributes:
        edges: layer -> its readers.
        untraced: layer -> why its readers are not known.
    """

    edges: dict[str, tuple[Edge, ...]]
    untraced: dict[str, str]


def plain_state(model: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a state dict on the CPU, every tensor with memory of its own."""
    torch = need("torch", "a torch model", "export")
    state = model.state_dict() if isinstance(model, torch.nn.Module) else model
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items() if torch.is_tensor(value)}


def open_state(state: Mapping[str, Tensor], path: Path, graph: ModuleGraph | None = None) -> Artifact:
    """Write a state dict to `path` as safetensors and open it as the product does, with a graph if there is one."""
    need("safetensors.torch", "a torch model", "export").save_file(dict(state), path)
    artifact = open_safetensors(path)
    if graph is None:
        return artifact
    names = {t.name for t in artifact.tensors}
    untraced = {name: graph.untraced.get(name, "not found in the graph") for name in names - set(graph.edges)}
    return replace(artifact, edges={n: e for n, e in graph.edges.items() if n in names}, untraced=untraced)


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The weights of a file that `torch.save` wrote, tensors alone: a state dict, or a dictionary that holds one.

    Raises FileAccessError, MalformedArtifactError for anything else, MissingExtraError without torch.
    """
    torch = need("torch", f"{path.suffix} files", "export")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, EOFError, AttributeError):
        raise MalformedArtifactError(
            f"{path}: holds more than tensors, or is damaged",
            hint="Save the state dict alone: torch.save(model.state_dict(), path)",
        ) from None
    for name in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    state = plain_state(found) if isinstance(found, Mapping) else {}
    if not state:
        raise MalformedArtifactError(f"{path}: holds no state dict", hint="torch.save(model.state_dict(), path)")
    return {str(name).removeprefix("module."): value for name, value in state.items()}
