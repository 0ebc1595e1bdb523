"""`salon report` where events are in Kafka: the warehouse alone is read, the broker is not asked, and a held warehouse is said."""

import json
import subprocess
import sys
from pathlib import Path

CONFIG = """
[events]
log = "kafka://127.0.0.1:1/"
[warehouse]
url = "chdb://warehouse"
[routes.hero]
serve = "base"
[metrics.like_rate]
kind = "proportion"
event = "like"
[experiments.colours]
route = "hero"
arms = { base = 0.5, vivid = 0.5 }
control = "base"
primary = "like_rate"
"""
# In a process of its own: an embedded warehouse is one to a process.
PROGRAM = """
import subprocess, sys
from analytics.events import Event, new_id, utc_now
from analytics.warehouse.client import Warehouse
from salon.cli import main
config, url = sys.argv[1:]
words = ["report", "colours", "--format", "json", "--config", config]
facts = {"route": "hero", "experiment": "colours", "propensity": 0.5, "occurred_at": utc_now(), "received_at": utc_now()}
units = [(arm, f"{arm}-{i}") for arm in ("base", "vivid") for i in range(3)]
warehouse = Warehouse.open(url)
warehouse.migrate()
warehouse.insert("log", 1, 6, [Event(event_id=new_id(), kind="exposure", arm=arm, unit=unit, **facts) for arm, unit in units])
warehouse.close()
code = main(words)
held = Warehouse.open(url)
held.query("SELECT 1")
program = "import sys; from salon.cli import main; sys.exit(main(sys.argv[1:]))"
other = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
held.close()
print(other.stderr, file=sys.stderr)
sys.exit(10 * other.returncode + code)
"""


def test_reports_read_the_warehouse_and_say_when_a_gateway_holds_it(tmp_path: Path) -> None:
    (tmp_path / "salon.toml").write_text(CONFIG, "utf-8")
    words = [sys.executable, "-c", PROGRAM, str(tmp_path / "salon.toml"), f"chdb://{tmp_path}/warehouse"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 10, done.stderr
    assert {arm["arm"]: arm["units"] for arm in json.loads(done.stdout)["arms"]} == {"base": 3, "vivid": 3}
    assert "held by a running gateway, and its events are in Kafka" in done.stderr
    assert "ask the gateway (GET /v1/experiments/NAME/report)" in done.stderr
