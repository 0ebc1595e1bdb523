"""The public face: the `salon` command's front door, `salon.Client` and the version."""

__version__ = "0.1.0"
