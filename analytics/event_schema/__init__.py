"""JSON Schemas of events, one per kind and released version: made from the Event struct, kept as files, only ever widened."""
