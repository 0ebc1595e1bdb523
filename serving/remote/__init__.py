"""Engines in other processes: a client of the Open Inference Protocol and a group of workers."""
