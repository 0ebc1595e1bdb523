"""`salon serve`: the gateway, with engine, event log and warehouse embedded unless the configuration names others."""

import argparse
import logging
import signal
import socket
import sys
from pathlib import Path

import uvicorn

from analytics.command import Command
from analytics.settings import Document
from gateway.app import create_app
from gateway.config import Config, load, parse_listen
from gateway.keys import SCOPES, create_key
from gateway.listening import bind
from gateway.running import Gateway

GRACE_SECONDS, KEEP_ALIVE_SECONDS = 30, 75


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", help="HOST:PORT instead of [gateway] listen; port 0 takes a free one")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if arguments.log_level != "debug":
        # The client repeats the same few words at every attempt; our own say once what is wrong.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
    if arguments.log_level == "debug":
        for name in ("clickhouse_connect", "kafka"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    document = Document.read(Path(arguments.config) if arguments.config else None)
    config = load(document)
    host, port = parse_listen(document, arguments.listen or config.gateway.listen)
    with bind(host, port) as listener:
        gateway = Gateway(config)
        _first_key(config, gateway)
        return serve(gateway, listener)


def serve(gateway: Gateway, listener: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests under way. Returns the exit code."""
    # uvicorn raises the signal again after its shutdown: by then it must no longer kill us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    options = uvicorn.Config(
        create_app(gateway),
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    host, port = listener.getsockname()[:2]
    print(f"Salon listens on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    server = uvicorn.Server(options)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _first_key(config: Config, gateway: Gateway) -> None:
    """At the very first start there is no file of keys: make one that may do everything, and show it."""
    if config.keys_path.exists():
        return
    secret = create_key(config.keys_path, "development", SCOPES)
    gateway.keys.refresh()
    print(f"A development key with all scopes (shown this once, kept hashed in {config.keys_path}):\n  {secret}", flush=True)


COMMAND = Command(
    summary="Serve the gateway: images by OpenAI's API, experiments, feedback and reports.",
    example="salon serve --config salon.toml",
    arguments=_arguments,
    run=_run,
)
