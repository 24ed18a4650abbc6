"""ONNX Runtime and OpenVINO: inference from a graph that torch exported, always in float32."""

from __future__ import annotations

from functools import cache

import torch

from benchmarks.engines import Engine, Run, result_run
from benchmarks.tasks import INFERENCE, Model, Task

INPUT, BATCH = "images", "batch"
EXAMPLE_BATCH = 2
EXPORTER = ("onnx", "onnxscript")  # which torch needs for it


def onnx_runtime_run(task: Task) -> Run | None:
    """With the CPU provider, all graph optimisations, and a session for the batch size."""
    import onnxruntime

    if task.direction != INFERENCE:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.inter_op_num_threads = 1
    # Its threads wait busily for their next work; after a call they would take the others' CPU.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_free_dimension_override_by_name(BATCH, task.batch)
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(_onnx(task.model), options, providers=providers)
    feed = {INPUT: task.images().numpy()}
    return result_run("output", lambda: session.run(None, feed)[0])


def openvino_run(task: Task) -> Run | None:
    """Tuned for latency, on one stream, compiled for the batch size."""
    import openvino

    if task.direction != INFERENCE:
        return None
    core = openvino.Core()
    graph = core.read_model(_onnx(task.model))
    graph.reshape([task.batch, *task.model.image])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": task.threads,
        "INFERENCE_PRECISION_HINT": "f32",  # it would take bfloat16 where the CPU has it
        "ENABLE_CPU_PINNING": False,  # it would bind threads to CPUs that others use too
    }
    request = core.compile_model(graph, "CPU", settings).create_infer_request()
    feed = {0: task.images().numpy()}
    return result_run("output", lambda: request.infer(feed, share_inputs=True, share_outputs=True)[0])


@cache
def _onnx(model: Model) -> bytes:
    """Exported once in each process, for any batch size."""
    example = Task(model=model, batch=EXAMPLE_BATCH, direction=INFERENCE)
    program = torch.onnx.export(
        example.module().eval(),
        (example.images(),),
        input_names=[INPUT],
        dynamic_shapes=({0: torch.export.Dim(BATCH)},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto.SerializeToString()


ONNX_RUNTIME = Engine("ONNX Runtime", onnx_runtime_run, packages=("onnxruntime", *EXPORTER))
OPENVINO = Engine("OpenVINO", openvino_run, packages=("openvino", *EXPORTER))
