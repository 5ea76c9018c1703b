"""A compiled model's `model.mil` written from a program, in the two styles that Core ML's compiler uses.

No Core ML compiler runs here, so the tests check the reader against this and against the published pair in tests/data.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from corelocker.artifacts.coreml.mlprogram import (
    Argument,
    BlobReference,
    Block,
    MilProgram,
    Operation,
    TensorType,
    Value,
    read_model,
)


def write_compiled(package: Path, folder: Path, *, modern: bool) -> Path:
    """An `.mlmodelc` beside nothing but its weights; `modern` writes scalars as `string("x")`, else `tensor<string, []>("x")`."""
    source = package / "Data" / "com.apple.CoreML"
    target = folder / f"{package.stem}-{'modern' if modern else 'classic'}.mlmodelc"
    target.mkdir(parents=True)
    shutil.copytree(source / "weights", target / "weights")
    program = read_model((source / "model.mlmodel").read_bytes())
    (target / "model.mil").write_text(_Writer(modern).program(program))
    return target


class _Writer:
    def __init__(self, modern: bool) -> None:
        self._modern = modern

    def program(self, program: MilProgram) -> str:
        pair = self._type(TensorType("string", ()))
        info = f'[buildInfo = dict<{pair}, {pair}>({{{{"coremlc-version", "3500.32.1"}}, {{"note", "a \\"quoted\\" ]"}}}})]'
        functions = "".join(
            f"    func {f.name}<ios18>({', '.join(f'{self._type(t)} {n}' for n, t in f.inputs)}) {self._block(f.block)};\n"
            for f in program.functions
        )
        return f"program({'1.3' if self._modern else '1.0'})\n{info}\n{{\n{functions}}}\n"

    def _block(self, block: Block) -> str:
        lines = "".join(f"            {self._operation(op)};\n" for op in block.operations)
        return f"{{\n{lines}        }} -> ({', '.join(block.outputs)})"

    def _operation(self, op: Operation) -> str:
        assert not op.blocks, "how the compiler writes nested blocks is not known"
        outputs = ", ".join(f"{self._type(t)} {n}" for n, t in op.outputs)
        # Constants stand between brackets, as attributes do.
        named = {k: v for k, v in op.arguments.items() if k != "name"}
        inline = op.type == "const" or (op.type.startswith("constexpr_") and not self._modern)
        inputs = {} if inline else named
        attributes = {"name": op.arguments["name"]} | (named if inline else {}) if "name" in op.arguments else {}
        return f"{outputs} = {op.type}({self._arguments(inputs)})[{self._arguments(attributes)}]"

    def _arguments(self, arguments: dict[str, tuple[Argument, ...]]) -> str:
        parts = []
        for name, group in sorted(arguments.items()):
            values = [a if isinstance(a, str) else self._value(a) for a in group]
            joined = ", ".join(values)
            parts.append(f"{name} = {joined}" if len(values) == 1 and name != "values" else f"{name} = ({joined})")
        return ", ".join(parts)

    def _type(self, kind: TensorType | None) -> str:
        assert kind is not None
        if self._modern and not kind.shape:
            return kind.dtype
        return f"tensor<{kind.dtype}, [{', '.join('?' if n is None else str(n) for n in kind.shape)}]>"

    def _value(self, value: Value) -> str:
        kind = self._type(value.type)
        if isinstance(value.content, BlobReference):
            path = self._value(Value(TensorType("string", ()), (value.content.file,)))
            offset = f"{self._type(TensorType('uint64', ()))}({value.content.offset})"
            return f"{kind}(BLOBFILE(path = {path}, offset = {offset}))"
        if value.text is not None:
            return f'{kind}("{value.text}")'
        array = value.array()
        assert array is not None
        return f"{kind}({self._literal(array.tolist())})"

    def _literal(self, value: object) -> str:
        if isinstance(value, list):
            return f"[{', '.join(self._literal(v) for v in value)}]"
        if isinstance(value, bool):
            return str(value).lower()
        return value.hex() if isinstance(value, float) else str(value)
