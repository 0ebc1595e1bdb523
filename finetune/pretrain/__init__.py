"""Trains the packaged model, salon/emoji-64, from two npm packages: `python -m finetune.pretrain --help`."""
