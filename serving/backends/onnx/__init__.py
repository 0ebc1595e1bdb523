"""Exported graphs in ONNX Runtime: weights given from memory, adapters beside them."""
