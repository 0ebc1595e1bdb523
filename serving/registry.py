"""The registry of adapters: content-addressed, in any folder or bucket; also where a round announces its candidate."""

import hashlib
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from serving.errors import ModelError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_REF = re.compile(r"registry:(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,127})@sha256:(?P<digest>[0-9a-f]{64})")
_MANIFEST = "manifest.json"
Json = dict[str, Any]


class Registry:
    """Artefacts by `registry:NAME@sha256:HEX`. Safe for several processes at once; nothing published is ever changed.

    Layout under the root: `artefacts/NAME/HEX/files/…` with `artefacts/NAME/HEX/manifest.json`, written last, and
    `announcements/TIME-….json`.
    """

    def __init__(self, url: str, *, cache: Path | None = None) -> None:
        """`url`: a path, `file://…`, or any fsspec URL. Remote artefacts are kept under `cache` (default ~/.cache/salon)."""
        import fsspec

        if "://" not in url:
            url = "file://" + os.fspath(Path(url.removeprefix("local:")).absolute())
        self.url = url
        try:
            self._files, root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise ModelError(f"registry url {url!r}: {error}; use a path, file://, s3://, …") from None
        self._root = root.rstrip("/")
        self._local = Path(self._root) if url.startswith("file://") else None
        self._cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salon" / "registry"

    def publish(self, name: str, folder: Path, manifest: Mapping[str, Any]) -> str:
        """Store the files of `folder` and return the reference. The same content twice is one artefact, the first manifest stays.

        `manifest` is kept beside it with `ref`, `name`, `files` and `published_at` added. Raises ModelError.
        """
        check_name(name)
        files = _hashes(folder)
        if not files:
            raise ModelError(f"{folder}: holds no files to publish")
        digest = _digest(files)
        ref = f"registry:{name}@sha256:{digest}"
        record = {**manifest, "ref": ref, "name": name, "files": files, "published_at": datetime.now(UTC).isoformat()}
        encoded = msgspec.json.format(msgspec.json.encode(record), indent=2)
        if self._local:
            _store(self._local / "artefacts" / name / digest, folder, files, encoded)
            return ref
        place = f"{self._root}/artefacts/{name}/{digest}"
        if not self._files.exists(f"{place}/{_MANIFEST}"):
            for file in files:
                self._files.makedirs(f"{place}/files/{file}".rsplit("/", 1)[0], exist_ok=True)
                self._files.put_file(os.fspath(folder / file), f"{place}/files/{file}")
            self._files.pipe_file(f"{place}/{_MANIFEST}", encoded)
        return ref

    def fetch(self, ref: str) -> Path:
        """A local folder with the artefact's files, their digest verified. Raises ModelError."""
        name, digest = parse(ref)
        if self._local:
            folder = self._local / "artefacts" / name / digest / "files"
            if not folder.is_dir():
                raise ModelError(
                    f"{ref}: is not in the registry {self.url}; published: {', '.join(self._names(name)) or 'nothing by that name'}"
                )
        else:
            folder = self._cache / name / digest
            if not folder.is_dir():
                self._download(ref, name, digest, folder)
        if _digest(_hashes(folder)) != digest:
            raise ModelError(
                f"{ref}: the files in {folder} do not have this digest; they were changed or damaged: delete them and publish again"
            )
        return folder

    def _download(self, ref: str, name: str, digest: str, folder: Path) -> None:
        place = f"{self._root}/artefacts/{name}/{digest}"
        try:
            files: list[str] = list(msgspec.json.decode(self._files.cat_file(f"{place}/{_MANIFEST}"))["files"])
        except FileNotFoundError:
            raise ModelError(f"{ref}: is not in the registry {self.url}") from None
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise ModelError(f"{ref}: its manifest is damaged ({error}); publish it again") from None
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
        try:
            for file in files:
                if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
                    raise ModelError(f"{ref}: its manifest names the path {file!r} outside the artefact; publish it again")
                (partial / file).parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{place}/files/{file}", os.fspath(partial / file))
            if not folder.exists():
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def manifests(self) -> list[Json]:
        """Every artefact's manifest, newest last."""
        found = [self._read(path) for path in self._files.glob(f"{self._root}/artefacts/*/*/{_MANIFEST}")]
        return sorted((m for m in found if m), key=lambda m: (str(m.get("published_at")), str(m.get("ref"))))

    def announce(self, record: Mapping[str, Any]) -> None:
        """Hand a candidate to the gateway: a small JSON object, stored whole under a name that sorts by time."""
        data = msgspec.json.encode(dict(record))
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        if self._local:
            _write(self._local / "announcements" / name, data)
        else:
            self._files.makedirs(f"{self._root}/announcements", exist_ok=True)
            self._files.pipe_file(f"{self._root}/announcements/{name}", data)

    def announcements(self) -> list[Json]:
        """Every record announced, oldest first."""
        return [record for path in sorted(self._files.glob(f"{self._root}/announcements/*.json")) if (record := self._read(path))]

    def _names(self, name: str) -> list[str]:
        return sorted(str(m["ref"]) for m in self.manifests() if m.get("name") == name)

    def _read(self, path: str) -> Json:
        try:
            return msgspec.json.decode(self._files.cat_file(path), type=Json)
        except (FileNotFoundError, msgspec.MsgspecError):
            return {}  # one damaged record must not hide the others


def check_name(name: str) -> None:
    """Raises ModelError for a name that no artefact can have."""
    if not _NAME.fullmatch(name):
        raise ModelError(f"name {name!r}: use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 128")


def parse(ref: str) -> tuple[str, str]:
    """Name and hex digest of `registry:NAME@sha256:HEX`. Raises ModelError."""
    match = _REF.fullmatch(ref)
    if match is None:
        raise ModelError(f"adapter {ref!r}: write registry:NAME@sha256:64-hex-digits, as `publish` returned it")
    return match["name"], match["digest"]


def _hashes(folder: Path) -> dict[str, str]:
    """Relative path to SHA-256, sorted by path. Symbolic links are not followed."""
    files: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return files


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{name}\0{files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def _store(place: Path, folder: Path, files: Mapping[str, str], manifest: bytes) -> None:
    if (place / _MANIFEST).is_file():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=place.parent, prefix=".partial-"))
    try:
        for file in files:
            _write(partial / "files" / file, (folder / file).read_bytes())
        _write(partial / _MANIFEST, manifest)
        partial.chmod(0o755)
        try:
            partial.rename(place)
        except OSError:
            if not (place / _MANIFEST).is_file():  # else another process published the same content first
                raise
        _sync(place.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
