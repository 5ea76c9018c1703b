"""One method of a program: its values, and its instructions in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence

from corelocker.artifacts.elements import BFLOAT16, FLOAT16, FLOAT32, INT8, INT32, UINT8, ElementType
from corelocker.artifacts.executorch.coreml_delegate import CoreMLDelegates
from corelocker.artifacts.executorch.flatbuffer import FlatTable
from corelocker.artifacts.executorch.method_values import IntListValue, MethodValue, TensorListValue, TensorValue
from corelocker.artifacts.executorch.named_data import NamedData
from corelocker.artifacts.executorch.portable import PortableMethod
from corelocker.artifacts.executorch.program import ExecutionPlan, ProgramFile
from corelocker.artifacts.executorch.walk import Walk, checked_shape
from corelocker.artifacts.executorch.xnnpack import XnnpackGraph
from corelocker.artifacts.flow import Flow
from corelocker.artifacts.layers import MAX_RANK, Region, printable
from corelocker.errors import MalformedArtifactError

INT64 = ElementType("int64", 64, False)
# ScalarType
ELEMENTS = {0: UINT8, 1: INT8, 3: INT32, 4: INT64, 5: FLOAT16, 6: FLOAT32, 15: BFLOAT16}
INT, BOOL, DOUBLE, TENSOR, INT_LIST, TENSOR_LIST, OPTIONAL_TENSOR_LIST = 2, 3, 4, 5, 7, 10, 11  # KernelTypes
KERNEL_CALL, DELEGATE_CALL, MOVE_CALL = 1, 2, 3  # InstructionArguments
EXTERNAL = 1  # TensorDataLocation

# What other delegates hold in place of weights that could be found.
OPAQUE = {
    "QnnBackend": "Qualcomm's compiler has turned the weights into a binary for one chip family",
    "VulkanBackend": "its graph for the GPU holds the weights in a form of its own",
    "NeuropilotBackend": "MediaTek's compiler has turned the weights into a binary for one chip family",
    "EthosUBackend": "Arm's compiler has packed the weights for the Ethos-U",
    "MPSBackend": "its graph for Apple's GPU holds the weights in a form of its own",
}


class MethodReader:
    """Walks the instructions of one method."""

    def __init__(
        self, program: ProgramFile, plan: ExecutionPlan, named: NamedData, coreml: CoreMLDelegates, walk: Walk
    ) -> None:
        self._program = program
        self._plan = plan.table
        self._named = named
        self._coreml = coreml
        self._walk = walk
        self._name = f"{program.file.name}: method {plan.name}"
        self._values = [self._value(value) for value in plan.table.tables(2)]
        self._operators = [printable(operator.text(0)) for operator in plan.table.tables(6)]
        self._delegates = list(plan.table.tables(7))
        self._portable = PortableMethod(self._name, self._values, walk)

    def _value(self, value: FlatTable) -> MethodValue:
        kind, table = value.union(0)
        if table is None:
            return None
        if kind == TENSOR:
            return self._tensor(table)
        if kind == INT:
            return table.i64(0)
        if kind == BOOL:
            return table.u8(0)
        if kind == DOUBLE:
            return table.f64(0)
        if kind == INT_LIST:
            return IntListValue(table.i64s(0))
        if kind in (TENSOR_LIST, OPTIONAL_TENSOR_LIST):
            return TensorListValue(table.i32s(0))
        return None

    def _tensor(self, table: FlatTable) -> TensorValue:
        shape = checked_shape(self._name, table.i32s(2))
        order = table.u8s(3)
        element = ELEMENTS.get(table.i8(0))
        region, place = None, None
        planned, extra = table.table(6), table.table(9)
        if planned is not None:
            place = (planned.u32(0), planned.u32(1) | planned.u32(2) << 32, element.bits if element else 0)
        elif extra is not None and extra.i8(2) == EXTERNAL:
            key = extra.text(1)
            found = self._named.find(key)
            region = Region(found.file, found.offset, found.size, key)
        elif table.u32(5):
            region = self._program.constant(table.u32(5))
        if order and sorted(order) != list(range(len(shape))):
            raise MalformedArtifactError(f"{self._name}: a tensor of shape {shape} has the axes {order[:MAX_RANK]}")
        plain = not order or order == tuple(range(len(shape)))
        return TensorValue(shape, None if plain else order, element, region, place)

    def run(self) -> None:
        for index in self._plan.i32s(3):
            self._portable.define(index, self._walk.tracer.entry(self._portable.shape(index)))
        for chain in self._plan.tables(5):
            for instruction in chain.tables(2):
                kind, table = instruction.union(0)
                if table is None:
                    continue
                if kind == KERNEL_CALL:
                    index = table.i32(0)
                    if not 0 <= index < len(self._operators):
                        raise MalformedArtifactError(f"{self._name}: there is no operator {index}")
                    self._portable.call(self._operators[index], table.i32s(1))
                elif kind == DELEGATE_CALL:
                    self._delegate(table.i32(0), table.i32s(1))
                elif kind == MOVE_CALL:
                    self._portable.define(table.i32(1), self._portable.value(table.i32(0)))
        for index in self._plan.i32s(4):
            value = self._portable.value(index)
            if isinstance(value, Flow):
                self._walk.tracer.leave(value)

    def _delegate(self, index: int, arguments: Sequence[int]) -> None:
        if not 0 <= index < len(self._delegates):
            raise MalformedArtifactError(f"{self._name}: there is no delegate {index}")
        delegate = self._delegates[index]
        backend = printable(delegate.text(0)) or "without a name"
        region = self._program.delegate(delegate.table(1))
        if backend in ("XnnpackBackend", "CoreMLBackend"):
            self._program.graphs.add(region)
        if backend == "XnnpackBackend":
            self._xnnpack(f"{self._name}, delegate {index}", region, arguments)
            return
        if backend == "CoreMLBackend":
            package = self._coreml.package(region, f"{self._walk.method}.coreml")
            inputs, outputs = arguments[: -package.outputs], arguments[-package.outputs :]
            known = [self._portable.operand(i, "an operand of a Core ML delegate") for i in inputs]
            layers, reason = (
                self._coreml.layers(package, known, self._walk.tracer),
                "a Core ML delegate is followed inside only",
            )
        else:
            name, reason = f"{self._walk.method}.{backend}", f"the delegate {backend} is not supported"
            if backend in OPAQUE:
                reason += f": {OPAQUE[backend]}"
            self._walk.collector.refuse(name, reason)
            # Inputs come first, and each has been written.
            count = max((i + 1 for i, a in enumerate(arguments) if self._portable.is_known(a)), default=0)
            inputs, outputs = arguments[:count], arguments[count:]
            known = [self._portable.operand(i, f"an operand of {backend}") for i in inputs]
            layers = [name]
        for flow in known:
            self._walk.tracer.abandon(flow, reason)
        for i in outputs:
            self._portable.define(i, self._walk.tracer.opaque(layers, self._portable.shape(i), reason))

    def _xnnpack(self, name: str, region: Region, arguments: Sequence[int]) -> None:
        blob = region.file.read(region.offset, region.size)
        graph = XnnpackGraph(
            name,
            blob,
            region.offset,
            region.file,
            self._named.content,
            self._named.extend_identity,
            self._program.budget,
        )
        values = {}
        for place, index in enumerate(arguments):
            tensor = self._portable.tensor(index)
            if tensor is not None:
                value = self._portable.value(index)
                values[place] = value.permute(tensor.order) if tensor.order else value
        for place, flow in graph.run(self._walk, values).items():
            if not 0 <= place < len(arguments):
                raise MalformedArtifactError(f"{name}: an output has no place among {len(arguments)} arguments")
            tensor = self._portable.tensor(arguments[place])
            if tensor is not None and tensor.order and len(tensor.order) == len(flow.shape):
                flow = flow.permute([tensor.order.index(i) for i in range(len(tensor.order))])
            self._portable.define(arguments[place], flow)
