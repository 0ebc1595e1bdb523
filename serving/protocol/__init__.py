"""Open Inference Protocol v2: the codec that server and client share, and the server of an engine."""
