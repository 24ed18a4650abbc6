"""Networks that were fused already, and blocks of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenet_ext.engine.capture.errors import UNKNOWN
from lenet_ext.engine.capture.readers.table import reads
from lenet_ext.engine.network import Network

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader


@reads("Fused networks and blocks", "lenet_ext.network", "lenet_ext.network_forward")
def network(reader: Reader, call: Call) -> None:
    if call.arguments["normalization"] is not None:
        call.refuse(UNKNOWN)
    inner, parameters = Network.of(call.arguments["program"]), call.arguments["parameters"]
    shapes = inner.shapes(call.input, [node.meta["val"] for node in parameters])
    values = [reader.value(call, call.source)]
    buffers = inner.buffers
    for number, (layer, read, own, label) in enumerate(inner.nodes):
        names = [
            call.name_of_node("parameter", parameters[i], "buffer" if i in buffers else "Parameter") for i in own
        ]
        reader.builder.where = ".".join(filter(None, (call.where, label)))
        counter = reader.count(names[-2]) if getattr(layer, "updates", False) else None
        sources = [values[i] for i in read]
        values.append(reader.emit(layer, sources, shapes[number + 1], names, counter))
    outputs = [values[i] for i in inner.outputs]
    if call.operator == "lenet_ext.network":
        reader.give_list(call, outputs)
    else:
        held = [reader.new(value, None, False) for value in outputs]
        reader.lists[call.node] = {0: held}
