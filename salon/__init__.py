"""The public face: the `salon` command's front door, `salon.Client` and the version."""

from salon.client import Client, GatewayError

__all__ = ["Client", "GatewayError", "__version__"]
__version__ = "0.1.0"
