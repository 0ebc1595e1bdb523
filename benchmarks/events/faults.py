"""What can go wrong, one function each: does it at once, and returns how long it lasts and how it ends."""

import random
import signal
from collections.abc import Callable
from pathlib import Path

from topology import Topology

Undo = Callable[[], None]
Fault = Callable[[Topology, random.Random], tuple[float, Undo]]
BALLAST = "ballast"
PIECE_BYTES = 1 << 20


def gateway_killed(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """kill -9 of a gateway, its forwarder with it."""
    victim = chance.choice(it.gateways)
    victim.kill()
    return chance.uniform(0, 2), victim.start


def gateway_stopped(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """SIGSTOP of a gateway."""
    victim = chance.choice(it.gateways)
    victim.send(signal.SIGSTOP)
    return chance.uniform(1, 4), lambda: victim.send(signal.SIGCONT)


def broker_killed(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """kill -9 of a broker."""
    n = chance.randint(1, it.brokers)
    it.kafka.kill(n)
    return chance.uniform(0.5, 3), lambda: it.kafka.start_one(n)


def broker_stopped(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """SIGSTOP of a broker."""
    n = chance.randint(1, it.brokers)
    it.kafka.pause(n)
    return chance.uniform(2, 6), lambda: it.kafka.resume(n)


def sink_killed(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """kill -9 of a sink."""
    victim = chance.choice(it.sinks)
    victim.kill()
    return chance.uniform(0, 3), victim.start


def sink_stopped(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """SIGSTOP of a sink, now and then long enough for its partitions to go to another: it wakes as a zombie."""
    victim = chance.choice(it.sinks)
    victim.send(signal.SIGSTOP)
    return chance.choice((chance.uniform(1, 4), chance.uniform(14, 18))), lambda: victim.send(signal.SIGCONT)


def warehouse_killed(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """kill -9 of the warehouse's process."""
    it.warehouse.kill()
    return chance.uniform(0.5, 3), it.warehouse.start


def warehouse_stopped(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """SIGSTOP of the warehouse's process."""
    it.warehouse.pause()
    return chance.uniform(2, 6), it.warehouse.resume


def connections_cut(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """Every connection of one kind is reset."""
    proxy = it.proxies[chance.choice(sorted(it.proxies))]
    proxy.say("cut")
    return chance.uniform(0, 1), lambda: None


def answer_swallowed(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """Something was done, and the connection is cut before its answer."""
    proxy = it.proxies[chance.choice(sorted(it.proxies))]
    proxy.say("swallow")
    return chance.uniform(0.5, 2), lambda: proxy.say("normal")


def connections_delayed(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """Every chunk takes up to half a second longer."""
    proxy = it.proxies[chance.choice(sorted(it.proxies))]
    proxy.say(f"delay {chance.uniform(50, 500):.0f}")
    return chance.uniform(1, 4), lambda: proxy.say("normal")


def connections_refused(it: Topology, chance: random.Random) -> tuple[float, Undo]:
    """Open connections are cut and new ones refused, as when a network is down."""
    proxy = it.proxies[chance.choice(("kafka", "warehouse"))]
    proxy.say("refuse")
    proxy.say("cut")
    return chance.uniform(1, 6), lambda: proxy.say("normal")


def disk_filled(spool: Path) -> Fault:
    """The first gateway's spool disk, a file system of its own, is filled to its last byte."""

    def fill(it: Topology, chance: random.Random) -> tuple[float, Undo]:
        ballast = spool / BALLAST
        with ballast.open("ab", buffering=0) as file:
            size = PIECE_BYTES
            while size:
                try:
                    if file.write(bytes(size)) < size:
                        size //= 2
                except OSError:
                    size //= 2
        # Longer than SQLite goes on in the pages that its write-ahead log has already.
        return chance.uniform(3, 6), lambda: ballast.unlink(missing_ok=True)

    return fill


FAULTS: dict[str, Fault] = {
    "gateway killed": gateway_killed,
    "gateway stopped": gateway_stopped,
    "broker killed": broker_killed,
    "broker stopped": broker_stopped,
    "sink killed": sink_killed,
    "sink stopped": sink_stopped,
    "warehouse killed": warehouse_killed,
    "warehouse stopped": warehouse_stopped,
    "connections cut": connections_cut,
    "answer swallowed": answer_swallowed,
    "connections delayed": connections_delayed,
    "connections refused": connections_refused,
}
