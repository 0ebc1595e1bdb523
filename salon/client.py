"""A small, synchronous client of the gateway: images, feedback, experiments, reports. Standard library only.

client = Client("http://127.0.0.1:8080", key)
shown = client.generate("a red heart", route="hero", user="ada", n=4)
client.feedback("like", token=shown.token, image_id=shown.images[0].image_id)
"""

import base64
import http.client
import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

IDLE_SECONDS = 4.0


class GatewayError(Exception):
    """The gateway refused: `status`, and its problem document (RFC 9457) as `problem`. `retry_after_seconds` when it said so."""

    def __init__(self, status: int, problem: dict[str, Any], retry_after_seconds: float | None) -> None:
        super().__init__(f"{status}: {problem.get('detail', 'no details')}")
        self.status, self.problem, self.retry_after_seconds = status, problem, retry_after_seconds


@dataclass(frozen=True, slots=True)
class Image:
    """One picture: its file (PNG unless another format was asked for), and where it stood in the grid, from 0."""

    image_id: str
    position: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer. `arm` is there only for keys with scope analyst, inside an experiment."""

    generation_id: str
    token: str
    images: tuple[Image, ...]
    arm: str | None


class Client:
    """Thread-safe; one connection per thread, kept open. Raises GatewayError for refusals, OSError when out of reach."""

    def __init__(self, url: str, key: str | None = None, *, timeout_seconds: float = 600.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}; write http://HOST:PORT or https://HOST")
        self._parts, self._key, self._timeout_seconds = parts, key, timeout_seconds
        self._local = threading.local()

    def generate(
        self,
        prompt: str,
        *,
        route: str | None = None,
        user: str | None = None,
        n: int = 1,
        idempotency_key: str | None = None,
        **extra: Any,
    ) -> Generation:
        """Ask for pictures. `extra`: seed, negative_prompt, context, output_format, size."""
        body = {"prompt": prompt, "model": route, "user": user, "n": n, "response_format": "b64_json", **extra}
        wanted = {name: value for name, value in body.items() if value is not None}
        headers = {"idempotency-key": idempotency_key} if idempotency_key else {}
        answer, received = self._call("POST", "/v1/images/generations", wanted, headers)
        images = tuple(Image(item["image_id"], item["position"], base64.b64decode(item["b64_json"])) for item in answer["data"])
        return Generation(answer["generation_id"], answer["feedback_token"], images, received.get("salon-arm"))

    def feedback(self, kind: str, *, token: str | None = None, generation_id: str | None = None, **extra: Any) -> dict[str, Any]:
        """Send one event; returns its result. `extra`: image_id, value, event_id, occurred_at, attributes."""
        body = {"kind": kind, "feedback_token": token, "generation_id": generation_id, **extra}
        (result,) = self.send([{name: value for name, value in body.items() if value is not None}], single=True)
        return result

    def send(self, events: Iterable[Mapping[str, Any]], *, single: bool = False) -> list[dict[str, Any]]:
        """Send up to 1000 events; their results in order."""
        events = list(events)
        answer, _ = self._call("POST", "/v1/feedback", events[0] if single else {"events": events})
        return list(answer["results"])

    def preference(self, winner: str, loser: str, *, tie: bool = False, **extra: Any) -> dict[str, Any]:
        """Send a side-by-side choice by image ids. `extra`: rater, event_id, feedback_token."""
        answer, _ = self._call("POST", "/v1/preferences", {"winner": winner, "loser": loser, "tie": tie, **extra})
        return dict(answer["results"][0])

    def assignments(self, route: str, units: Iterable[str]) -> list[dict[str, Any]]:
        """What each of up to 1000 units would get."""
        return list(self._call("POST", "/v1/assignments", {"route": route, "units": list(units)})[0]["assignments"])

    def experiments(self) -> list[dict[str, Any]]:
        """Every experiment with its state."""
        return list(self._call("GET", "/v1/experiments")[0]["experiments"])

    def change(self, experiment: str, action: str, *, why: str = "", arm: str | None = None) -> dict[str, Any]:
        """start, pause, resume, stop or ship (with `arm`)."""
        body = {"why": why, **({"arm": arm} if arm else {})}
        return dict(self._call("POST", f"/v1/experiments/{quote(experiment, safe='')}/{quote(action, safe='')}", body)[0])

    def reweigh(self, experiment: str, weights: Mapping[str, float], *, why: str = "") -> dict[str, Any]:
        """New weights for all arms."""
        return dict(self._call("PATCH", f"/v1/experiments/{quote(experiment, safe='')}", {"weights": dict(weights), "why": why})[0])

    def report(self, experiment: str, *, as_of: str | None = None) -> dict[str, Any]:
        """The report as JSON."""
        query = f"?{urlencode({'as_of': as_of})}" if as_of else ""
        return dict(self._call("GET", f"/v1/experiments/{quote(experiment, safe='')}/report{query}")[0])

    def page(self, experiment: str) -> str:
        """The report as a self-contained HTML page with its gallery."""
        return self._bytes("GET", f"/v1/experiments/{quote(experiment, safe='')}/report?format=html")[0].decode()

    def forget(self, unit: str) -> dict[str, Any]:
        """Delete all that is kept of a unit; the receipt."""
        return dict(self._call("DELETE", f"/v1/units/{quote(unit, safe='')}")[0])

    def ready(self) -> dict[str, Any]:
        """`{ready, details}`; also when it is not."""
        try:
            return dict(self._call("GET", "/health/ready")[0])
        except GatewayError as error:
            return error.problem

    def close(self) -> None:
        """Close this thread's connection."""
        connection = self._local.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()

    def _call(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[dict[str, Any], http.client.HTTPMessage]:
        data, received = self._bytes(method, path, body, headers)
        return json.loads(data), received

    def _bytes(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        sent = {"content-type": "application/json", **(headers or {})}
        if self._key:
            sent["authorization"] = f"Bearer {self._key}"
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        response, data = self._exchange(method, self._parts.path.rstrip("/") + path, content, sent)
        if response.status >= 300:
            wait = response.headers.get("retry-after", "")
            raise GatewayError(response.status, _problem(data), float(wait) if wait.isdigit() else None)
        return data, response.headers

    def _exchange(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, bytes]:
        if time.monotonic() - getattr(self._local, "used_at", 0.0) > IDLE_SECONDS:
            self.close()
        kept = getattr(self._local, "connection", None)
        connection = kept or self._connect()
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            data = response.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # An idle connection that the server has closed is not a failure; a fresh one that breaks is.
            self.close()
            if kept is None or (method == "POST" and "idempotency-key" not in headers and not path.endswith("/assignments")):
                raise
            return self._exchange(method, path, content, headers)
        except BaseException:
            self.close()
            raise
        self._local.used_at = time.monotonic()
        return response, data

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        self._local.connection = kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_seconds)
        connection: http.client.HTTPConnection = self._local.connection
        return connection


def _problem(data: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(data)
    except ValueError:
        return {"detail": data[:200].decode("utf-8", "replace")}
    return problem if isinstance(problem, dict) else {"detail": str(problem)}
