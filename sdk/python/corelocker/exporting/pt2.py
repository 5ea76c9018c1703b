"""Reading a `.pt2` archive without running what is in it.

A `.pt2` can carry pickles, compiled libraries, names of Python functions and expressions that torch evaluates. A model needs
none of them beyond tensors and operators, so everything else is refused before torch sees it. This is a fence, not a
sandbox: torch itself says that an archive from a stranger should not be loaded.
"""

from __future__ import annotations

import ast
import json
import math
import operator
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corelocker.errors import ExportError, FileAccessError
from corelocker.exporting._steps import need, step

MAX_GRAPH = 256 << 20  # bytes of JSON
NAME = re.compile(r"\w{1,64}")
EXPRESSION_NODES = (
    ast.Expression,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.keyword,
    ast.Tuple,
    ast.UnaryOp,
    ast.USub,
)


def load_archive(path: Path) -> Any:
    """The `torch.export.ExportedProgram` of an archive that `torch.export.save` wrote.

    Raises FileAccessError when the file cannot be read, and ExportError when it is no such archive, holds more than tensors
    and operators, or cannot be loaded by this torch.
    """
    from torch.export.pt2_archive._package import PT2ArchiveReader, load_pt2

    try:
        with open(path, "rb") as file:
            start = file.read(4)
    except OSError as error:
        raise FileAccessError(f"{path}: {error.strerror or error}") from None
    if start != b"PK\3\4":
        raise ExportError(f"{path}: not a .pt2 archive")
    with step(f"read {path.name}"), PT2ArchiveReader(os.fspath(path)) as archive:
        _check_archive(path, archive)
    # Not torch.export.load, which hides why an archive cannot be read and then tries a format that is not checked here.
    with step(f"load {path.name}"), _weights_only():
        programs = load_pt2(os.fspath(path)).exported_programs
    if len(programs) != 1:
        raise ExportError(f"{path}: holds {len(programs)} programs, not one")
    (program,) = programs.values()
    program._guards_code = []  # source text that torch would compile to check inputs
    return program


def _check_archive(path: Path, archive: Any) -> None:
    from torch.export.pt2_archive import constants

    unwanted = (
        (constants.AOTINDUCTOR_DIR, "a compiled library"),
        (f"{constants.CONSTANTS_DIR}{constants.CUSTOM_OBJ_FILENAME_PREFIX}", "a custom object"),
        (f"{constants.CONSTANTS_DIR}{constants.OPAQUE_OBJ_FILENAME_PREFIX}", "a pickled object"),
    )
    names = archive.get_file_names()
    for name in names:
        for prefix, kind in unwanted:
            if name.startswith(prefix):
                raise ExportError(f"{path}: holds {kind} ({name}), which is not loaded")
    graphs = [name for name in names if name.startswith(constants.MODELS_DIR)]
    if not graphs:
        raise ExportError(
            f"{path}: holds no exported program", hint="Save it again with torch.export.save of torch 2.8 or later"
        )
    for name in graphs:
        text = archive.read_bytes(name)
        if len(text) > MAX_GRAPH:
            raise ExportError(f"{path}: {name} is larger than {MAX_GRAPH} bytes")
        _check_graph(path, json.loads(text))


def _check_graph(path: Path, document: Any) -> None:
    """Every operator is one that torch has registered, every size a plain formula."""
    todo = [document]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        elif isinstance(item, dict):
            todo += item.values()
            if isinstance(target := item.get("target"), str) and "inputs" in item and not _is_operator(target):
                raise ExportError(f"{path}: calls {target[:80]!r}, which is not an operator")
            if isinstance(formula := item.get("expr_str"), str) and not _is_formula(formula):
                raise ExportError(f"{path}: has a size that is not a formula: {formula[:80]!r}")


def _is_operator(target: str) -> bool:
    import torch
    from torch._export.serde.serialize import _SYM_OPS

    root, *names = target.split(".")
    found: Any = {"torch": torch, "_operator": operator, "math": math}.get(root)
    for name in names:
        found = getattr(found, name, None)
    return isinstance(found, torch._ops.OperatorBase) or found is operator.getitem or found in _SYM_OPS


def _is_formula(text: str) -> bool:
    """Whether sympy builds an expression from the text and does nothing else: only calls of expression classes by name."""
    from torch.utils._sympy import functions, numbers

    sympy = need("sympy")

    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in nodes:
        if not isinstance(node, EXPRESSION_NODES):
            return False
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not NAME.fullmatch(node.value):
            return False
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            kind = next((getattr(m, name) for m in (functions, numbers, sympy) if hasattr(m, name)), None)
            if not isinstance(kind, type) or not issubclass(kind, sympy.Basic):
                return False
    return True


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch.load takes tensors alone, also where torch asks for arbitrary pickles."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
