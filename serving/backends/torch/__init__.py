"""A model's modules in torch, on the CPU or CUDA, with adapters in banks beside their layers."""
