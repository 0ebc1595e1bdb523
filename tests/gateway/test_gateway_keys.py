"""Keys: shown once, hashed at rest, refused when wrong, expired or revoked; the file is read again."""

import os
import stat
from datetime import timedelta

import pytest

from analytics.events import utc_now
from gateway.keys import KeyRing, create_key, read_keys, revoke_key
from gateway.keys_command import COMMAND, lifetime
from salon.cli import main


def ring(path):
    keys = KeyRing(path)
    keys.refresh()
    return keys


def test_a_key_opens_its_scopes_and_is_not_in_the_file(tmp_path):
    path = tmp_path / "keys.toml"
    secret = create_key(path, "shop", ["feedback", "generate"])
    holder = ring(path).holder(secret, utc_now())
    assert holder is not None and holder.name == "shop" and holder.scopes == {"generate", "feedback"}
    assert secret not in path.read_text() and secret.rpartition("_")[2] not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change", [lambda s: s[:-1], lambda s: s + "x", lambda s: s.upper(), lambda s: "", lambda s: "salon_00000000_x", lambda s: "ключ"]
)
def test_anything_else_opens_nothing(tmp_path, change):
    path = tmp_path / "keys.toml"
    secret = create_key(path, "shop", ["generate"])
    assert ring(path).holder(change(secret), utc_now()) is None


def test_expired_and_revoked_keys_open_nothing(tmp_path):
    path = tmp_path / "keys.toml"
    secret = create_key(path, "old", ["generate"], utc_now() + timedelta(hours=1))
    keys = ring(path)
    assert keys.holder(secret, utc_now()) is not None
    assert keys.holder(secret, utc_now() + timedelta(hours=2)) is None
    revoke_key(path, "old")
    assert keys.refresh() and keys.holder(secret, utc_now()) is None


def test_a_damaged_file_leaves_the_keys_as_they_were(tmp_path):
    path = tmp_path / "keys.toml"
    secret = create_key(path, "shop", ["generate"])
    keys = ring(path)
    path.write_text("[keys.shop\n")
    os.utime(path, (1, 1))
    with pytest.raises(ValueError, match=r"keys\.toml"):
        keys.refresh()
    assert keys.holder(secret, utc_now()) is not None


def test_wrong_names_and_scopes_are_refused_with_the_nearest(tmp_path):
    path = tmp_path / "keys.toml"
    with pytest.raises(ValueError, match="did you mean 'analyst'"):
        create_key(path, "a", ["analist"])
    create_key(path, "shop", ["generate"])
    with pytest.raises(ValueError, match="exists"):
        create_key(path, "shop", ["generate"])
    with pytest.raises(ValueError, match="did you mean 'shop'"):
        revoke_key(path, "shopp")


def test_lifetimes():
    assert lifetime("90d") == timedelta(days=90) and lifetime("12h") == timedelta(hours=12)
    for wrong in ("", "90", "d", "0d", "-1d", "1y"):
        with pytest.raises(ValueError, match="--expires"):
            lifetime(wrong)


def test_the_command_creates_lists_and_revokes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["keys", "create", "web", "--scopes", "generate,feedback", "--expires", "90d"]) == 0
    secret = capsys.readouterr().out.strip()
    assert ring(tmp_path / "keys.toml").holder(secret, utc_now()) is not None
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert "web" in listed and "generate,feedback" in listed and secret not in listed
    assert main(["keys", "revoke", "web"]) == 0
    assert read_keys(tmp_path / "keys.toml") == {}
    assert main(["keys", "revoke", "web"]) == 2
    assert COMMAND.example.startswith("salon keys")
