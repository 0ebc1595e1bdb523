"""What a client predicts of a worker's work, what it takes for an answer, and where a token comes from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocol.tensor import NUMBERS, Tensor
from serving.protocol.wire import InferResponse
from serving.remote.failures import Lost
from serving.remote.settings import RemoteSettings, read_token
from serving.remote.tensors import OUTPUTS, pictures_of
from serving.remote.workload import Workload, predicted_ms, row_steps


def test_our_own_work_is_not_counted_twice():
    work = Workload()
    work.begin(300.0)
    work.begin(200.0)
    work.end(300.0)
    work.reported(700.0, now=10.0)  # 200 of it are ours
    assert work.backlog_ms(10.0) == 700.0
    assert work.backlog_ms(10.4) == pytest.approx(300.0)  # the others' 500 shrink by 400
    assert work.backlog_ms(99.0) == 200.0
    work.end(200.0)
    assert work.backlog_ms(99.0) == 0.0


@given(st.lists(st.floats(0, 1e6), max_size=20), st.floats(0, 1e7), st.floats(0, 1e3))
def test_a_backlog_is_never_negative_and_ends_with_the_work(sent, told, later):
    work = Workload()
    for ms in sent:
        work.begin(ms)
    work.reported(told, 0.0)
    assert work.backlog_ms(later) >= 0
    for ms in sent:
        work.end(ms)
    assert work.backlog_ms(1e9) <= 1e-6 * (1 + sum(sent))


def test_rows_and_pace():
    assert (row_steps(20, 2.0, 3), row_steps(20, 1.0, 3), row_steps(20, 0.0, 1)) == (120, 60, 20)
    fast, slow, new = Workload(), Workload(), Workload()
    fast.learn("m", 2.0)
    slow.learn("m", 4.0)
    slow.learn("m", 9.0)
    assert slow.pace_ms("m") == pytest.approx(5.0)
    assert predicted_ms(10, "m", fast, [slow]) == 20.0
    assert predicted_ms(10, "m", new, [fast, slow]) == pytest.approx(35.0)
    assert predicted_ms(10, "other", new, [fast, slow]) == 10.0


@pytest.mark.parametrize(
    ("source", "said"),
    [("env:NO_SUCH", "NO_SUCH is not set"), ("file:/nowhere/token", "/nowhere/token cannot be read"), ("env:TWO", "is no bearer token")],
)
def test_a_token_that_is_not_there_is_named_by_its_place(source, said):
    with pytest.raises(ValueError, match=said) as refusal:
        read_token(source, {"TWO": "hunter two"})
    assert "hunter" not in str(refusal.value)


def test_a_token_is_read_from_its_place(tmp_path):
    (tmp_path / "token").write_text("abc\n")
    assert read_token(f"file:{tmp_path}/token", {}) == read_token("env:T", {"T": " abc "}) == "abc"
    assert read_token(None, {}) is None
    assert RemoteSettings(urls=("http://a:1", "https://b/prefix"), token="env:T").token == "env:T"


ARRAYS = st.one_of(
    st.tuples(st.sampled_from(["FP32", "INT64", "UINT8", "BOOL"]), st.lists(st.integers(0, 5), max_size=4), st.binary(max_size=8)).map(
        lambda drawn: (drawn[0], np.resize(np.frombuffer(drawn[2] or b"\\0", np.uint8), drawn[1]).astype(NUMBERS[drawn[0]]))
    ),
    st.lists(st.one_of(st.just(b"\\x89PNG\\r\\n\\x1a\\n"), st.binary(max_size=9)), max_size=3).map(lambda files: ("BYTES", files)),
    st.sampled_from(
        [("FP32", np.array([np.nan, 1.0], np.float32)), ("FP64", np.array([np.inf])), ("UINT8", np.zeros((2, 8, 8, 3), np.uint8))]
    ),
)


@given(st.dictionaries(st.sampled_from(OUTPUTS), ARRAYS))
def test_whatever_a_server_answers_is_pictures_or_a_lost_request(found):
    outputs = {
        name: Tensor(name, kind, (len(data),) if isinstance(data, list) else data.shape, data) for name, (kind, data) in found.items()
    }
    try:
        pictures = pictures_of(InferResponse(model_name="m", outputs=outputs), 2, (8, 8), 30.0)
    except Lost:
        return
    assert len(pictures) == 2 and all(bool(p.encoded) != (p.rgb.shape == (8, 8, 3)) for p in pictures)
    assert all(0 <= p.queue_ms < np.inf and 0 <= p.service_ms < np.inf for p in pictures)
