"""Templates of C: substitution, omission, repetition and includes."""

import pytest

from rnn_export.runtime.build import template
from rnn_export.runtime.build.template import render

HEADER = """\
#ifndef NAME_H
//@if delay
#define NAME_DELAY $delay
//@end delay
//@unless delay
/* no delay */
//@end delay
//@each ports
//@if table_rows
#define NAME_${macro}_ROWS $table_rows
//@end table_rows
    float $type$i[$size]; /* $label of $name */
//@end ports
//@include more.c
#endif
"""
MORE = """\
//@if delay
void name_more(name_state *state, filename_t *file);
//@end delay
"""


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    (tmp_path / "header.h").write_text(HEADER)
    (tmp_path / "more.c").write_text(MORE)
    (tmp_path / "CMakeLists.txt").write_text("#@if libm\nlink($name $${m})\n#@end libm\n")
    monkeypatch.setattr(template, "files", lambda package: tmp_path / package)


def port(i, label, table_rows=None):
    return {"i": i, "type": "x", "size": i + 2, "label": label, "macro": f"X{i}", "table_rows": table_rows}


def test_values_rows_and_parts():
    ports = [port(0, "name_a $size"), port(1, "b", 7)]
    assert render(".", "header.h", "net", {"delay": 3, "ports": ports}) == (
        "#ifndef NET_H\n"
        "#define NET_DELAY 3\n"
        "    float x0[2]; /* name_a $size of net */\n"
        "#define NET_X1_ROWS 7\n"
        "    float x1[3]; /* b of net */\n"
        "void net_more(net_state *state, filename_t *file);\n"
        "#endif\n"
    )
    assert render(".", "header.h", "net", {"delay": 0, "ports": []}) == "#ifndef NET_H\n/* no delay */\n#endif\n"


def test_a_template_that_is_no_c():
    assert render(".", "CMakeLists.txt", "net", {"libm": True}) == "link(net ${m})\n"
    assert render(".", "CMakeLists.txt", "net", {"libm": False}) == ""


def test_a_value_that_is_not_given():
    for values, lacking in (({"ports": [port(0, "a")]}, "delay"), ({"delay": 3}, "ports")):
        with pytest.raises(KeyError, match=lacking):
            render(".", "header.h", "net", values)
