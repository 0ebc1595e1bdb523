"""LoRA files: read, merged into weights, laid out in banks that a network reads row by row."""
