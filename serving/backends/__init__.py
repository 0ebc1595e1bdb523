"""Ways to run a model's networks behind one port: ONNX Runtime on the CPU, CUDA or TensorRT, and torch."""
