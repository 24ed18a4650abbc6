"""ONNX Runtime and OpenVINO: inference from an exported graph, always in float32."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from importlib.util import find_spec

import torch

from lenet_ext.benchmark.cases import INFERENCE
from lenet_ext.benchmark.peers.engines import Engine, Inference
from lenet_ext.benchmark.peers.networks import Network, Task

INPUT, BATCH = "images", "batch"
EXAMPLE_BATCH = 2
EXPORTER = ("onnx", "onnxscript")


class GraphEngine(Engine):
    """Runs a graph that torch exported."""

    def missing(self) -> str | None:
        absent = [name for name in EXPORTER if find_spec(name) is None]
        return super().missing() or (f"torch's exporter needs {', '.join(absent)}" if absent else None)


class OnnxRuntime(GraphEngine):
    """With the CPU provider, all graph optimisations, and a session for the batch size."""

    name = "ONNX Runtime"
    package = "onnxruntime"

    def inference(self, task: Task) -> Inference:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        options.inter_op_num_threads = 1
        # Its threads wait busily for their next work; after a call they would take the others' CPU.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_free_dimension_override_by_name(BATCH, task.batch)
        session = onnxruntime.InferenceSession(
            _onnx(task.network), options, providers=["CPUExecutionProvider"]
        )
        feed = {INPUT: task.images().numpy()}
        return lambda: session.run(None, feed)[0]


class OpenVino(GraphEngine):
    """Tuned for latency, on one stream, compiled for the batch size."""

    name = "OpenVINO"
    package = "openvino"

    def inference(self, task: Task) -> Inference:
        import openvino

        core = openvino.Core()
        model = core.read_model(_onnx(task.network))
        model.reshape([task.batch, *task.network.image])
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": task.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # it would take bfloat16 where the CPU has it
            "ENABLE_CPU_PINNING": False,  # it would bind threads that others use too
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        feed = {0: task.images().numpy()}
        return lambda: request.infer(feed, share_inputs=True, share_outputs=True)[0]


@lru_cache
def _onnx(network: Network) -> bytes:
    """Exported once, for any batch size."""
    example = Task(network=network, batch=EXAMPLE_BATCH, direction=INFERENCE, threads=1)
    with _quiet():
        program = torch.onnx.export(
            example.model().eval(),
            (example.images(),),
            input_names=[INPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters print and log about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
