"""Statistical inference on sufficient statistics: one file per method, pure functions."""
