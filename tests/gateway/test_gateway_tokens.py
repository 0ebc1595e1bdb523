"""Feedback tokens: sealed, opaque, refused when anything was changed."""

import base64
import os
import stat
from datetime import datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.events import new_id, utc_now
from gateway.problems import InvalidToken
from gateway.tokens import LIFE, Claims, Sealer, Shown, read_or_make_key


def claims():
    return Claims(
        new_id(),
        utc_now(),
        "hero",
        "colours",
        "vivid",
        "ada@example.org",
        0.25,
        (Shown(new_id(), 0, "sha256:aa"), Shown(new_id(), 1, "sha256:aa")),
    )


SEALER = Sealer(os.urandom(32))
CLAIMS = claims()
TOKEN = SEALER.seal(CLAIMS)


def test_what_was_sealed_comes_back():
    assert SEALER.open(TOKEN) == CLAIMS


def test_the_holder_learns_nothing():
    raw = base64.urlsafe_b64decode(TOKEN + "=" * (-len(TOKEN) % 4))
    for secret in (b"vivid", b"ada", b"colours", b"hero", b"sha256"):
        assert secret not in raw
    assert SEALER.seal(CLAIMS) != TOKEN


def test_a_picture_of_a_mixed_grid_has_an_arm_of_its_own():
    own = Shown(new_id(), 1, "sha256:bb", "pale", 0.5)
    mixed = msgspec.structs.replace(CLAIMS, arm="", propensity=None, images=(own,), facts={"block": "3"})
    assert SEALER.open(SEALER.seal(mixed)) == mixed
    assert mixed.arm_of(own) == "pale" and mixed.arm_of(None) == "" and CLAIMS.arm_of(CLAIMS.images[0]) == "vivid"


def test_a_token_of_the_last_release_opens_and_that_release_opens_ours():
    """It knew three fields of a picture and eight of a generation."""
    known = msgspec.to_builtins(CLAIMS)[:8]
    known[7] = [shown[:3] for shown in known[7]]

    class ShownThen(msgspec.Struct, array_like=True):
        image_id: UUID
        position: int
        variant_digest: str

    class ClaimsThen(msgspec.Struct, array_like=True):
        generation_id: UUID
        issued_at: datetime
        route: str
        experiment: str
        arm: str
        unit: str
        propensity: float | None
        images: tuple[ShownThen, ...]

    then = msgspec.convert(known, ClaimsThen)
    assert SEALER.open(SEALER.seal(then)) == CLAIMS
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(CLAIMS), type=ClaimsThen) == then


def test_another_gateways_token_is_refused():
    with pytest.raises(InvalidToken):
        SEALER.open(Sealer(os.urandom(32)).seal(CLAIMS))


@given(st.integers(0, len(TOKEN) - 1), st.sampled_from("ABCDxyz019-_"))
def test_a_changed_character_is_refused_or_means_the_same_bytes(place, letter):
    changed = TOKEN[:place] + letter + TOKEN[place + 1 :]
    pad = "=" * (-len(TOKEN) % 4)
    if base64.urlsafe_b64decode(changed + pad) == base64.urlsafe_b64decode(TOKEN + pad):
        assert SEALER.open(changed) == CLAIMS
    else:
        with pytest.raises(InvalidToken):
            SEALER.open(changed)


@given(st.text(max_size=80))
def test_nonsense_is_refused(text):
    with pytest.raises(InvalidToken):
        SEALER.open(text)


def test_tokens_expire_after_30_days():
    assert not CLAIMS.expired(CLAIMS.issued_at + LIFE)
    assert CLAIMS.expired(CLAIMS.issued_at + LIFE + timedelta(seconds=1))


def test_the_key_is_made_once_and_private(tmp_path):
    path = tmp_path / "token.key"
    key = read_or_make_key(path)
    assert len(key) == 32 and read_or_make_key(path) == key and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="5 bytes, not 32"):
        read_or_make_key(path)
