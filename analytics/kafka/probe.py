"""What is wrong with a broker: name, port, TLS, login and members, asked one after the other. kafka-python only says "unable"."""

import socket
import ssl
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from analytics.kafka import tls
from analytics.kafka.address import PASSWORD, KafkaAddress
from analytics.kafka.scram import HASHES, Scram
from analytics.kafka.wire import METADATA, UNSUPPORTED_MECHANISM, Closed, Conversation, NotKafka


class Trouble(Exception):
    """A reason and its fix, in words."""


def explain(address: KafkaAddress, timeout_seconds: float = 5) -> str | None:
    """Why no client can work with `address`: each broker with its reason and the fix. None: nothing wrong was found.

    Looks at the brokers of the address side by side, and where one of them answers well at those that it sends clients to.
    Each look waits at most `timeout_seconds` at each step. Names no password.
    """
    seen = _look_at(address, address.brokers, timeout_seconds)
    members = [found for found in seen.values() if not isinstance(found, Trouble)]
    if not members:
        return _told(seen)
    others = tuple(dict.fromkeys(member for found in members for member in found if member not in seen))
    lost = {broker: found for broker, found in _look_at(address, others, timeout_seconds).items() if isinstance(found, Trouble)}
    if not lost:
        return None
    return f"the brokers answer, but their advertised.listeners send clients to an address that does not work from here: {_told(lost)}"


def _look_at(address: KafkaAddress, brokers: Sequence[str], timeout_seconds: float) -> dict[str, list[str] | Trouble]:
    def look(broker: str) -> list[str] | Trouble:
        try:
            return _members(address, broker, timeout_seconds)
        except Trouble as trouble:
            return trouble

    if not brokers:
        return {}
    with ThreadPoolExecutor(len(brokers), thread_name_prefix="kafka-probe") as pool:
        return dict(zip(brokers, pool.map(look, brokers), strict=True))


def _told(troubles: Mapping[str, list[str] | Trouble]) -> str:
    reasons: dict[str, list[str]] = {}
    for broker, trouble in troubles.items():
        reasons.setdefault(str(trouble), []).append(broker)
    return "; ".join(f"Kafka broker {', '.join(brokers)}: {reason}" for reason, brokers in reasons.items())


def _members(address: KafkaAddress, broker: str, timeout_seconds: float) -> list[str]:
    """What a working broker says of its cluster. Raises Trouble."""
    connection = _connect(broker, timeout_seconds)
    try:
        if address.tls:
            connection = _encrypt(connection, address, broker, timeout_seconds)
        return _converse(Conversation(connection), address)
    except TimeoutError:
        raise Trouble(f"takes the connection and does not answer in {timeout_seconds:g} s; it is paused, overloaded or not Kafka") from None
    except ssl.SSLError as error:
        raise Trouble(_tls_ended(error, address)) from None
    except (Closed, NotKafka) as error:
        if not address.tls and _speaks_tls(broker, timeout_seconds):
            fix = "SASL_SSL" if address.sasl else "SSL"
            raise Trouble(f"this port speaks TLS, and we do not; set security_protocol={fix}") from None
        if isinstance(error, NotKafka):
            raise Trouble("what answers there is not Kafka; check host and port") from None
        raise Trouble("closes the connection without an answer; check that the port is a broker's, and its log") from None
    except OSError as error:
        raise Trouble(f"the connection broke ({error.strerror or error})") from None
    finally:
        connection.close()


def _connect(broker: str, timeout_seconds: float) -> socket.socket:
    host, port = _parts(broker)
    try:
        return socket.create_connection((host, port), timeout_seconds)
    except socket.gaierror as error:
        raise Trouble(f"the host name {host!r} is not known here ({error.strerror}); check the name and DNS") from None
    except ConnectionRefusedError:
        raise Trouble("refuses the connection: nothing listens on that port; start the broker, or check host and port") from None
    except TimeoutError:
        raise Trouble(f"cannot be reached within {timeout_seconds:g} s; check host, port, routes and firewalls") from None
    except OSError as error:
        raise Trouble(f"cannot be reached ({error.strerror or error}); check host, port and routes") from None


def _encrypt(connection: socket.socket, address: KafkaAddress, broker: str, timeout_seconds: float) -> ssl.SSLSocket:
    host = _parts(broker)[0]
    try:
        context = tls.make_context(address.arguments)
        return context.wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise Trouble(tls.why_not_trusted(error, host, address.arguments.get("ssl_cafile"))) from None
    except ValueError as error:
        raise Trouble(str(error)) from None
    except OSError as error:
        # A plaintext broker reads our greeting as a length and hangs up; one that is paused says nothing in either language.
        if not isinstance(error, TimeoutError) and _speaks_plaintext(broker, timeout_seconds):
            fix = "SASL_PLAINTEXT" if address.sasl else "PLAINTEXT"
            raise Trouble(f"this port speaks plaintext, not TLS; take the broker's TLS port, or set security_protocol={fix}") from None
        if isinstance(error, ssl.SSLError | TimeoutError):
            raise
        raise Trouble("ends the connection in the middle of TLS; check that the port is a broker's TLS port, and its log") from None


def _converse(ask: Conversation, address: KafkaAddress) -> list[str]:
    if METADATA not in ask.versions():
        raise Trouble("this port is a controller's, not a broker's; take the port of a broker's listener")
    if address.sasl:
        _log_in(ask, address)
    try:
        return ask.members()
    except Closed:
        if address.sasl:
            raise
        fix = "SASL_SSL" if address.tls else "SASL_PLAINTEXT"
        raise Trouble(f"wants a login; write kafka://user@host:port with security_protocol={fix} and ${PASSWORD}") from None


def _log_in(ask: Conversation, address: KafkaAddress) -> None:
    mechanism, user = address.arguments["sasl_mechanism"], address.arguments["sasl_plain_username"]
    code, offered = ask.handshake(mechanism)
    if code == UNSUPPORTED_MECHANISM:
        raise Trouble(f"does not support sasl_mechanism={mechanism}; it has {', '.join(sorted(offered)) or 'none'}")
    if code:
        fix = "SSL" if address.tls else "PLAINTEXT"
        raise Trouble(f"takes no login on this port; take its SASL port, or set security_protocol={fix} and leave out the user")
    password = str(address.arguments["sasl_plain_password"])
    if mechanism not in HASHES:
        code, _, _ = ask.authenticate(f"\0{user}\0{password}".encode())
        if code:
            raise Trouble(f"refuses the login of user {user!r} by {mechanism}: wrong password, or no such user; check both and ${PASSWORD}")
        return
    scram = Scram(mechanism, user, password)
    code, _, said = ask.authenticate(scram.first)
    if code:
        fix = f"check the name, or make the user (kafka-configs.sh --add-config '{mechanism}=…')"
        raise Trouble(f"knows no user {user!r} for {mechanism}; {fix}")
    try:
        code, _, _ = ask.authenticate(scram.final(said))
    except ValueError as error:
        raise Trouble(f"answers our login with {error}; check that the port is a Kafka broker's") from None
    if code:
        raise Trouble(f"refuses the password of user {user!r}; check ${PASSWORD}, or the password in the URL")


def _tls_ended(error: ssl.SSLError, address: KafkaAddress) -> str:
    if not tls.wants_our_certificate(error):
        return f"TLS fails ({error.reason or error}); check the broker's TLS settings"
    if "ssl_certfile" in address.arguments:
        return "refuses our certificate; check ssl_certfile and ssl_keyfile against the CAs that the broker trusts"
    return "wants a certificate of ours; set ssl_certfile and ssl_keyfile"


def _speaks_tls(broker: str, timeout_seconds: float) -> bool:
    try:
        with _connect(broker, timeout_seconds) as connection:
            tls.blind_context().wrap_socket(connection, server_hostname=_parts(broker)[0]).close()
    except (OSError, Trouble):
        return False
    return True


def _speaks_plaintext(broker: str, timeout_seconds: float) -> bool:
    try:
        with _connect(broker, timeout_seconds) as connection:
            return bool(Conversation(connection).versions())
    except (OSError, Trouble, Closed, NotKafka):
        return False


def _parts(broker: str) -> tuple[str, int]:
    host, _, port = broker.rpartition(":")
    return host.strip("[]"), int(port)
