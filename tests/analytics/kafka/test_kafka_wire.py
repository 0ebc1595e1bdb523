"""Our few words of Kafka's protocol: SCRAM against the vector of RFC 7677, and replies that are not Kafka's."""

import contextlib
import secrets
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.kafka.scram import Scram
from analytics.kafka.wire import Closed, Conversation, NotKafka


def test_scram_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7677, section 3: user `user`, password `pencil`."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "rOprNGfwEbeRWgbNEkqO")
    login = Scram("SCRAM-SHA-256", "user", "pencil")
    assert login.first == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    said = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert login.final(said) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )


@given(st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_scram_refuses_what_a_server_would_not_say(said: bytes) -> None:
    with pytest.raises(ValueError, match="SCRAM"):
        Scram("SCRAM-SHA-512", "user", "pencil").final(said)


@given(st.one_of(st.binary(max_size=64), st.binary(min_size=4, max_size=64).map(lambda body: struct.pack(">ii", len(body) + 4, 1) + body)))
def test_no_reply_surprises_us(reply: bytes) -> None:
    """Any bytes are an answer, or Closed, or NotKafka: nothing else escapes, and nothing waits."""
    for question in (Conversation.versions, Conversation.members, lambda ask: ask.handshake("PLAIN"), lambda ask: ask.authenticate(b"x")):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(5)
            theirs.sendall(reply)
            theirs.shutdown(socket.SHUT_WR)
            with contextlib.suppress(Closed, NotKafka):
                question(Conversation(ours))
            assert theirs.recv(1024)
