"""The HTTP edge: who asks, which arm, which images, what people did."""
