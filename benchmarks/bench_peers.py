"""Time the fused engine beside torch, torch.compile, ONNX Runtime, OpenVINO and JAX."""

from lenet_ext.benchmark.run import main

if __name__ == "__main__":
    main("peers")
