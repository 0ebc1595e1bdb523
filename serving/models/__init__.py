"""The packaged models, each a directory in diffusers layout with its ONNX graphs."""
