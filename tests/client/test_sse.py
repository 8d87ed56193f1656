from hypothesis import given
from hypothesis import strategies as st

from heddle.client.sse import events

STREAM = (
    b": a comment\n\n"
    b'data: {"a": 1}\n\n'
    b"event: x\nid: 3\ndata:one\ndata: two\r\n\r\n"
    b"data: line\xe2\x80\xa8separator \xc2\x85 stays\n\n\n"
    b"data: [DONE]\n\n"
    b"data: never finished\n"
)
EVENTS = ['{"a": 1}', "one\ntwo", "line\u2028separator \x85 stays", "[DONE]"]


@given(st.sets(st.integers(0, len(STREAM))))
def test_events_do_not_depend_on_how_the_bytes_are_cut(places):
    bounds = sorted({0, len(STREAM), *places})
    chunks = [STREAM[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    assert list(events(chunks)) == EVENTS
