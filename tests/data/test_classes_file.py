"""classes.txt: names and colours in the form that is expected, and the forms that people have instead."""

from __future__ import annotations

import pytest

from scaleeq.data import read_classes


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sky\r\n road  \r\n\r\ncar\r", ["sky", "road", "car"]),
        ("sky\t70\t130\t180\nroad 1 2 3", ["sky", "road"]),
        ("class 0\nclass 1\nclass 2", ["class 0", "class 1", "class 2"]),
        ("class 1 10 20 30\nclass 2 20 30 40", ["class 1", "class 2"]),
        ("1 cent\n2 cent\n1 euro\n2 euro", ["1 cent", "2 cent", "1 euro", "2 euro"]),
        ("person 2\nbike 7", ["person 2", "bike 7"]),
        ("18 wheeler\ncar", ["18 wheeler", "car"]),
        ("7up\n3d object", ["7up", "3d object"]),
        ("building, edifice\nwall", ["building, edifice", "wall"]),
        ("[void]\ntraffic sign (front)", ["[void]", "traffic sign (front)"]),
        ("name\naddress", ["name", "address"]),
        ("Straße\n道路", ["Straße", "道路"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names(tmp_path, text, names, encoding):
    (tmp_path / "classes.txt").write_bytes(text.encode(encoding))
    classes, colors = read_classes(str(tmp_path / "classes.txt"))
    assert classes == names and len(colors) == len(names)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("# my classes\nsky", "line 1: '# my classes' looks like a comment"),
        ("sky\n// road", "line 2: .*a comment"),
        ("sky #ff0000\nroad", "line 1: .*a comment, or with a colour"),
        ("64 128 64\tAnimal\n192 0 128\tArchway", "line 1: .*a colour before its name"),
        ("name,r,g,b\nsky,70,130,180", "line 1: 'name,r,g,b' looks like the header"),
        ("id name\n0 sky", "line 1: .*header"),
        ("sky,70,130,180", "CSV"),
        ("sky;70;130;180", "CSV"),
        ("0,sky\n1,road", "number before each name"),
        ("0 sky\n1 road", "number before each name, the first line is '0 sky'"),
        ("1: sky\n2: road", "number before each name"),
        ("7 road\n8 sidewalk", "number before each name"),
        ("0 sky 1 2 3\n1 road 2 3 4", "number before each name"),
        ("sky 0\nroad 1", "number after each name"),
        ("sky 70 130 180 255\nroad 128 64 128 255", "four numbers"),
        ("sky 0.1 0.2 0.3\nroad", "line 1: .*not three numbers"),
        ("sky -1 2 3\nroad", "line 1: .*not three numbers"),
        ('["sky", "road"]', "JSON"),
        ('{\n"0": "sky"}', "JSON"),
        ("<?xml?>\n<c>sky</c>", "XML"),
        ("- sky\n- road", "YAML"),
        ('"sky"\n"road"', "quotation marks"),
        ("sky,\nroad,", "commas"),
        ("sky, road, car", "several names on one line"),
        ("sky\x07\nroad", "no text"),
    ],
)
def test_other_forms_are_refused_with_the_one_that_is_expected(tmp_path, text, what):
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/classes.txt.*{what}.*; expected UTF-8, a class a line.*128 64 128"
    ):
        read_classes(str(tmp_path / "classes.txt"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("Himmel\nStraße".encode("latin-1"), "line 2: it is no text in UTF-8.*save it as UTF-8"),
        ("sky\nroad".encode("utf-16-le"), "zero bytes"),
        (b"\x89PNG\r\n\x1a\n\0\0", "line 1: it is no text in UTF-8"),
        (b"", "names 0 classes"),
    ],
)
def test_what_is_no_text(tmp_path, content, what):
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{tmp_path}/classes.txt.*{what}"):
        read_classes(str(tmp_path / "classes.txt"))
