"""Apache Kafka's own jars, fetched once by Maven as pinned in pom.xml, and Java to run them."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VERSION = "4.3.1"
JAVA_AT_LEAST = 17


class KafkaMissing(OSError):
    """Apache Kafka cannot run on this machine; the text says what is missing and how to get it."""


def jars() -> Path:
    """The folder with Kafka's jars, in $XDG_CACHE_HOME/salon; fetched when it is not there. Raises KafkaMissing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salon"
    folder = cache / f"kafka-{VERSION}"
    if not folder.is_dir():
        _fetch(cache, folder)
    return folder


def java() -> str:
    """The path of `java`. Raises KafkaMissing when there is none, or one older than 17."""
    path = shutil.which("java")
    if path is None:
        raise KafkaMissing(f"`java` is not on the PATH: install a Java {JAVA_AT_LEAST} runtime (Debian: openjdk-17-jre-headless)")
    said = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    if found is None or int(found[1]) < JAVA_AT_LEAST:
        raise KafkaMissing(f"`{path}` is {said.splitlines()[0] if said else 'silent about its version'}; Kafka needs Java {JAVA_AT_LEAST}")
    return path


def command(main: str, *arguments: str, heap_megabytes: int = 256, level: str = "warn", options: tuple[str, ...] = ()) -> list[str]:
    """The command line of a class in Kafka's jars. Raises KafkaMissing."""
    log = [f"-Dorg.slf4j.simpleLogger.defaultLogLevel={level}", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
    # Serial collector and first compiler only: a broker starts in 3 s and takes 230 MB instead of 365.
    small = [f"-Xmx{heap_megabytes}m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+PerfDisableSharedMem"]
    return [java(), *small, *log, *options, "-cp", f"{jars()}/*", main, *arguments]


def run(main: str, *arguments: str, timeout_seconds: float = 60, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run one of Kafka's tools, such as `org.apache.kafka.tools.TopicCommand`, to its end."""
    line = command(main, *arguments)
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout_seconds, check=False, input=stdin)


def _fetch(cache: Path, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise KafkaMissing("`mvn` is not on the PATH: install Maven (Debian: maven); it fetches Apache Kafka's jars")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetching-") as part:
        line = [maven, "-B", "-q", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        line += [f"-DoutputDirectory={part}/jars", "-DincludeScope=runtime"]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=part)
        if done.returncode:
            raise KafkaMissing(f"Maven could not fetch Kafka {VERSION} ({(done.stdout + done.stderr).strip()[-500:]})")
        try:
            (Path(part) / "jars").rename(folder)
        except OSError:
            # Another process was faster.
            if not folder.is_dir():
                raise
