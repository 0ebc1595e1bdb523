"""TLS to a broker as kafka-python makes it, and what its failures mean."""

import ssl
from collections.abc import Mapping
from typing import Any

FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
# OpenSSL's X509_V_ERR_…
EXPIRED, NOT_YET_VALID, WRONG_HOST, WRONG_IP = 10, 9, 62, 64
UNKNOWN_CA = (2, 18, 19, 20, 21)


def make_context(arguments: Mapping[str, Any]) -> ssl.SSLContext:
    """From the `ssl_…` keywords of kafka-python. Raises ValueError that names the file that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = bool(arguments.get("ssl_check_hostname", True))
    authority, certificate, key = (arguments.get(name) for name in FILES)
    try:
        if authority:
            context.load_verify_locations(authority)
        else:
            context.load_default_certs()
    except OSError as error:
        raise ValueError(f"ssl_cafile={authority} {_unusable(error)}; name a PEM file with the certificate of the broker's CA") from None
    if certificate:
        try:
            # Without a pass phrase OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            files = f"ssl_certfile={certificate}" + (f", ssl_keyfile={key}" if key else "")
            raise ValueError(f"{files} {_unusable(error)}; name PEM files with our certificate and its private key") from None
    return context


def blind_context() -> ssl.SSLContext:
    """Takes any certificate: only to see whether a port speaks TLS. Nothing is sent through it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def why_not_trusted(error: ssl.SSLCertVerificationError, host: str, authority: str | None) -> str:
    """Reason and fix where we refuse the broker's certificate."""
    code = error.verify_code
    if code == EXPIRED:
        return "its TLS certificate has expired; renew it on the broker (or set this machine's clock)"
    if code == NOT_YET_VALID:
        return "its TLS certificate is not valid yet; set this machine's clock, or the broker's certificate"
    if code in (WRONG_HOST, WRONG_IP):
        return f"its TLS certificate is not for the host name {host!r}; use a name that it is for, or give the broker one for this name"
    if code in UNKNOWN_CA:
        known = f"ssl_cafile={authority}" if authority else "this machine's list"
        return f"its TLS certificate is from an unknown CA, one that is not in {known}; set ssl_cafile to the PEM file of the broker's CA"
    return f"its TLS certificate is refused: {error.verify_message}"


def wants_our_certificate(error: ssl.SSLError) -> bool:
    """Whether a broker ended TLS for want of a client's certificate, or refused the one it got."""
    reason = (error.reason or "").upper()
    return any(word in reason for word in ("CERTIFICATE", "HANDSHAKE_FAILURE", "UNKNOWN_CA"))


def _unusable(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"holds nothing that TLS can use ({error.reason or 'no PEM'})"
    return f"cannot be read ({error.strerror})"
