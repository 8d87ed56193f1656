import pytest

from heddle.errors import RequestError, WeightsError
from heddle.text.template import Template


def test_generation_blocks_and_loop_controls_are_read():
    source = """\
{% for word in words %}
    {% if word == 'end' %}{% break %}{% endif %}
    {% generation %}
{{ word }}
    {% endgeneration %}
{% endfor %}
"""
    assert Template(source).render({"words": ["warp", "weft", "end", "x"]}) == "warp\nweft\n"


def test_json_is_written_without_html_escapes():
    assert Template("{{ x | tojson }}").render({"x": {"é": "<b>&"}}) == '{"é": "<b>&"}'
    assert Template("{{ x | tojson(indent=1) }}").render({"x": [1]}) == "[\n 1\n]"


def test_variables_from_outside_are_known():
    assert Template("{% set y = 1 %}{% if tools %}{{ y }}{% endif %}").variables == {"tools"}


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no such role') }}",
        "{{ 'text' + none }}",
        "{{ missing.field }}",
        "{{ 1 / 0 }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ words.append(1) }}",
    ],
)
def test_what_goes_wrong_while_rendering_is_the_requests(source):
    with pytest.raises(RequestError, match="chat template") as caught:
        Template(source).render({"words": []})
    assert caught.value.code == "chat_template_error"


def test_a_template_that_cannot_be_compiled_is_the_checkpoints():
    with pytest.raises(WeightsError, match="not valid Jinja"):
        Template("{% if %}")
