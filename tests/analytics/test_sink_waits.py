"""`salon sink` as a worker outlives a warehouse that is down when it starts; asked for once, it says so and ends."""

import os
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from local_clickhouse import LocalClickHouse

from analytics.events import Event, new_id
from analytics.local_log import LocalLog

PROGRAM = [sys.executable, "-c", "import sys; from salon.cli import main; sys.exit(main(sys.argv[1:]))", "sink"]


def test_a_worker_waits_for_its_warehouse(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "salon.toml").write_text(f'[events]\nlog = "local:e"\n[warehouse]\nurl = "clickhouse://127.0.0.1:{port}/salon"\n')
    now = datetime.now(UTC)
    log = LocalLog(tmp_path / "e")
    log.submit([Event(event_id=new_id(), kind="view", occurred_at=now, received_at=now)]).result(10)
    log.close()
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    once = subprocess.run([*PROGRAM, "--once"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert once.returncode == 1 and f"127.0.0.1:{port}" in once.stderr and "trying again" not in once.stderr
    worker = subprocess.Popen(PROGRAM, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    warehouse = LocalClickHouse(tmp_path / "clickhouse", port)
    try:
        assert worker.stderr is not None and worker.stdout is not None
        assert worker.stderr.readline().rstrip().endswith("trying again")
        warehouse.start()
        assert worker.stdout.readline() == "1 events moved, at position 1\n"
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    finally:
        worker.kill()
        warehouse.stop()
