"""A truly full disk: feedback is refused with a clear 503, pictures are still served, and what was acknowledged is there, once."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from salon.client import Client, GatewayError
from salon.demo.server import SALON, command, free_port

SETTINGS = """\
[gateway]
listen = "127.0.0.1:{port}"
[warehouse]
url = "chdb://{elsewhere}"
[variants.base]
model = "salon/emoji-64"
steps = 3
[routes.hero]
serve = "base"
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = sys.platform == "linux" and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=False).returncode:
        pytest.skip("a small disk needs root on Linux and the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def wait_ready(client: Client, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if client.ready()["ready"]:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("the gateway did not become ready")


def test_a_full_disk_loses_nothing_and_stops_no_picture(small_disk: Path, tmp_path: Path) -> None:
    port = free_port()
    (small_disk / "salon.toml").write_text(SETTINGS.format(port=port, elsewhere=tmp_path / "warehouse"))
    config = str(small_disk / "salon.toml")
    key = command("keys", "create", "test", "--scopes", "generate,feedback,analyst,admin", "--config", config)["key"]
    server = subprocess.Popen([*SALON, "serve", "--config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = Client(f"http://127.0.0.1:{port}", key)
        wait_ready(client)
        shown = client.generate("pizza", route="hero", user="u")
        like = {"generation_id": shown.generation_id, "image_id": shown.images[0].image_id, "kind": "like"}
        events = [{**like, "attributes": {"padding": "x" * 400}}] * 200
        (small_disk / "fill").write_bytes(b"0" * 10 * 1024 * 1024)
        accepted, refused = 0, []
        for _ in range(60):
            try:
                accepted += sum(r["status"] == "accepted" for r in client.send(events))
            except GatewayError as error:
                refused.append(error)
                if len(refused) == 3:
                    break
        assert [error.status for error in refused] == [503] * 3
        assert "disk is full" in str(refused[0])
        assert client.generate("rocket", route="hero", user="v").images
        (small_disk / "fill").unlink()
        accepted += sum(r["status"] == "accepted" for r in client.send([like] * 5))
        with sqlite3.connect(f"file:{small_disk}/var/events/events.sqlite?mode=ro", uri=True) as log:
            kinds = [msgspec.json.decode(data)["kind"] for (data,) in log.execute("SELECT data FROM events")]
        assert kinds.count("like") == accepted > 5
    finally:
        server.terminate()
        server.wait(30)
