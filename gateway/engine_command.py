"""`salon engine`: an engine as a server of the Open Inference Protocol v2, for gateways and for whoever speaks it."""

import argparse
import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from analytics.command import Command
from analytics.settings import Document
from gateway.config import Config, load, parse_listen
from gateway.listening import bind
from serving.engine import LocalEngine
from serving.registry import Registry
from serving.remote.settings import read_token

DEFAULT_LISTEN = "127.0.0.1:8000"


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="an engine of the configuration; by default its only one")
    parser.add_argument("--listen", default=DEFAULT_LISTEN, help=f"HOST:PORT (default {DEFAULT_LISTEN}); port 0 takes a free one")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])


def _run(arguments: argparse.Namespace) -> int:
    # only who serves pays for the server
    from serving.devices import Devices
    from serving.protocol.app import Server
    from serving.protocol.worker import Worker

    logging.basicConfig(level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    document = Document.read(Path(arguments.config) if arguments.config else None)
    config = load(document)
    name = choose(document, config, arguments.name)
    section, registry = config.engines[name], Registry(config.registry_url)
    host, port = parse_listen(document, arguments.listen)
    token = read_token(section.token, os.environ)
    variants = {each: variant for each, variant in config.variants.items() if variant.engine == name}
    with bind(host, port) as listener:
        engines = [
            LocalEngine(
                registry,
                cache=config.var / "cache",
                settings=section.settings(device),
                max_queue_seconds=config.gateway.max_queue_seconds,
            )
            for device in section.devices
        ]
        worker = Worker(Devices(engines), variants, token=token)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        served = f"variants {', '.join(variants)}" if variants else "no variants yet: gateways define them"
        print(f"Salon engine {name} listens on {address}, on {', '.join(section.devices)}; {served}", flush=True)
        server = Server(worker)
        server.run(sockets=[listener])
        return 0 if server.started else 1


def choose(document: Document, config: Config, name: str | None) -> str:
    """The engine to run. Raises SettingsError when the name is not in the configuration, or there are several to choose from."""
    declared = document.tables.get("engines", {}) or ("local",)
    chosen = name if name is not None else _only(document, declared)
    document.check_names(("engines",), [chosen], config.engines)
    if config.engines[chosen].model is not None:
        raise document.wrong(("engines", chosen, "model"), "is another server's; start that server, or take `model` away")
    return chosen


def _only(document: Document, declared: Iterable[str]) -> str:
    names = list(declared)
    if len(names) > 1:
        raise document.wrong(("engines",), f"there are several; name one: salon engine {names[0]} (of {', '.join(names)})")
    return names[0]


COMMAND = Command(
    summary="Serve an engine by the Open Inference Protocol v2 (HTTP): a GPU worker behind gateways.",
    example="salon engine gpu --listen 0.0.0.0:8000 --config salon.toml",
    arguments=_arguments,
    run=_run,
)
