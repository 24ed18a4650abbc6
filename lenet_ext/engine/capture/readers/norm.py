"""Batch norm, normalization of each image, and dropout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lenet_ext.engine.capture.errors import BATCH, HINTS
from lenet_ext.engine.capture.graph import image_shape, tensor
from lenet_ext.engine.capture.readers.table import reads
from lenet_ext.engine.layers import BatchNorm, Dropout, GroupNorm, LayerNorm

if TYPE_CHECKING:
    from lenet_ext.engine.capture.call import Call
    from lenet_ext.engine.capture.reader import Reader


@reads("BatchNorm1d, BatchNorm2d", "batch_norm")
def batch_norm(reader: Reader, call: Call) -> None:
    names = []
    if call.input.dim() < 2:
        call.refuse("gets an input without channels")
    for pair, kind in ((("weight", "bias"), "Parameter"), (("running_mean", "running_var"), "buffer")):
        given = [name for name in pair if call.arguments[name] is not None]
        if len(given) == 1:
            call.refuse(f"has a {given[0]} alone: {' and '.join(pair)} belong together")
        for name in given:
            if tensor(call.arguments[name]).dtype != call.input.dtype:
                call.refuse(f"has a {name} in another dtype than its input")
            names.append(call.name_of(name, kind))
    affine, tracked = (call.arguments[name] is not None for name in ("weight", "running_mean"))
    training = bool(call.arguments["training"])
    layer = BatchNorm(training, affine, tracked, call.number("eps"), call.number("momentum"))
    counter = reader.count(call.name_of("running_mean", "buffer")) if layer.updates else None
    if layer.updates and counter is None and layer.momentum != layer.momentum:
        call.refuse("takes cumulative averages without counting batches")
    value = reader.value(call, call.source)
    reader.give(call, reader.emit(layer, [value], image_shape(call.node), names, counter))


@reads("GroupNorm", "group_norm")
def group_norm(reader: Reader, call: Call) -> None:
    reader.apply(call, GroupNorm(call.known(call.arguments["num_groups"]), call.number("eps")), _affine(call))


@reads("InstanceNorm1d, InstanceNorm2d without track_running_stats", "instance_norm")
def instance_norm(reader: Reader, call: Call) -> None:
    if call.arguments["running_mean"] is not None or not call.arguments["use_input_stats"]:
        call.refuse("has running statistics (track_running_stats=True)")
    channels = call.known(call.input.shape[1])
    reader.apply(call, GroupNorm(channels, call.number("eps")), _affine(call))


@reads("LayerNorm", "layer_norm")
def layer_norm(reader: Reader, call: Call) -> None:
    dims = len(call.arguments["normalized_shape"])
    if dims >= call.input.dim():
        call.refuse(BATCH)
    reader.apply(call, LayerNorm(dims, call.number("eps")), _affine(call))


def _affine(call: Call) -> list[str]:
    """The names of the weight and the bias, as far as there are any."""
    names = [name for name in ("weight", "bias") if call.arguments[name] is not None]
    if names == ["bias"]:
        call.refuse("has a bias without a weight")
    for name in names:
        if tensor(call.arguments[name]).dtype != call.input.dtype:
            call.refuse(f"has a {name} in another dtype than its input")
    return [call.name_of(name) for name in names]


@reads("Dropout", "dropout(_)")
def dropout(reader: Reader, call: Call) -> None:
    _dropout(reader, call, per_channel=False)


@reads("Dropout1d, Dropout2d", "feature_dropout(_)")
def feature_dropout(reader: Reader, call: Call) -> None:
    _dropout(reader, call, per_channel=True)


@reads("AlphaDropout in eval mode", "alpha_dropout(_)", "feature_alpha_dropout(_)")
def alpha_dropout(reader: Reader, call: Call) -> None:
    if call.arguments["train"] and call.number("p") != 0:
        call.refuse(HINTS[call.operator.removesuffix("_")])
    _pass(reader, call)


def _dropout(reader: Reader, call: Call, per_channel: bool) -> None:
    p = call.number("p")
    if not call.arguments["train"] or p == 0:
        _pass(reader, call)
    elif per_channel and call.input.dim() < 2:
        call.refuse("gets an input without channels")
    else:
        reader.apply(call, Dropout(per_channel, p))


def _pass(reader: Reader, call: Call) -> None:
    # torch returns the very tensor.
    reader.give(call, reader.value(call, call.source), same=True)
