"""The socket that a server listens on."""

import socket


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError with the address and the fix."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port} ({error.strerror}); choose another with --listen HOST:PORT") from None
    return listener
