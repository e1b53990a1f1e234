"""The reader of YAML: bounded, silent about what files say, and strict about keys given twice."""

from __future__ import annotations

import codecs
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from paddleseg_autoloss.errors import ConfigError
from paddleseg_autoloss.yaml_files import MAX_DEPTH, MAX_SIZE, read_document, read_yaml

pytestmark = pytest.mark.once


def write(folder: Path, text: str, name: str = "a.yml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class TestRefusals:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("iters: 1\nb: 2\niters: 3", "line 3: iters is given twice, first in line 1"),
            ("loss:\n  coef: [1]\n  coef: [2]", "line 3: coef is given twice, first in line 2"),
            ("a: [{b: 1, b: 2}]", "line 1: b is given twice, first in line 1"),
            ("a: {b: 1}\na: {b: 2}", "line 2: a is given twice, first in line 1"),
            ("'a': 1\na: 2", "line 2: a is given twice, first in line 1"),
            ("a: &x [1, *x]", "line 1: the anchor x contains itself"),
            ("a: &x {<<: *x}", "line 1: the anchor x contains itself"),
            ("a: &x\n  b: {c: [*x]}", "line 2: the anchor x contains itself"),
            ("a: [1", "line 1: while parsing a flow sequence: expected ',' or ']'"),
            ("a: *b", "line 1: found undefined alias 'b'"),
            ("a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
            ("a: !!python/tuple [1]", "could not determine a constructor"),
            ("a: 2001-99-99", "line 1: this is not a valid timestamp"),
            ("a:\n  - !!int x", "line 2: this is not a valid int"),
            ("a: !!bool x", "line 1: this is not a valid bool"),
            ("a: !!timestamp x", "line 1: this is not a valid timestamp"),
            ("a: " + "1" * 200, "line 1: expected an integer of at most 100 digits"),
            ("a: 0x" + "f" * 200, "line 1: expected an integer of at most 100 digits"),
            ("? [a]\n: 1", "found unhashable key"),
            (
                "a: 1\niters: 012",
                "line 2: expected a number without a leading 0, which YAML reads as 10,",
            ),
            (
                "coef: [010, 0.8]",
                "line 1: expected a number without a leading 0, which YAML reads as 8,",
            ),
            ("a: -0_17", "line 1: expected a number without a leading 0, which YAML reads as -15,"),
            ("a: 1\niters: 1:30", "line 2: expected no number with :, in which YAML counts"),
            ("coef: [1:30.5]", "line 1: expected no number with :, in which YAML counts"),
            (
                "12:30:45: x",
                "line 1: expected no number with :, in which YAML counts sixties, as in 1:30",
            ),
            ("a: 1\nbatch_size：4\niters: 3", "; line 2 has a full-width ： or ，: write : and"),
            (
                "a: 1\nflag： no\n\n# a comment\nb: 3",
                "; line 2 has a full-width ： or ，: write : and",
            ),
            ("a: 1\nflag： no\n\n\n\nb: 3", "; line 2 has a full-width ： or ，: write : and"),
            ("a:\n  batch_size：4", "line 2: expected : and a blank, or , but found a full-width"),
            ("loss: {type：X}", "line 1: expected : and a blank, or , but found a full-width"),
            ("coef: [0.2，0.8]", "line 1: expected : and a blank, or , but found a full-width"),
            ("coef: 0.2，0.8", "line 1: expected : and a blank, or , but found a full-width"),
            ("coef: 1e-3，2e-3", "line 1: expected : and a blank, or , but found a full-width"),
            ("学习率：0.1", "found a scalar; line 1 has a full-width ： or ，: write : and"),
            ("root: 'data：v2'\nb: [", "line 2: while parsing a flow node: expected the node"),
            ("a: 'x，y'\nb: ]", "line 2: while parsing a block node: expected the node"),
            ("a: 1\nbatch_size:4\niters: 3", "; in line 2 a blank is missing after the colon"),
            ("a: 1\n---\nb: 2", "expected a single document"),
            ("a: \x01", "it has characters that YAML does not allow"),
            ("", "expected keys and values, found nothing"),
            ("- a", "expected keys and values, found a sequence"),
            ("just text", "expected keys and values, found a scalar"),
        ],
    )
    def test_one_line_with_the_place(self, text, message, tmp_path):
        path = write(tmp_path, text)
        with pytest.raises(ConfigError) as caught:
            read_yaml(path)
        assert message in str(caught.value)
        is_at_fault = re.search("[：，]", text) is not None and "'" not in text
        assert str(caught.value).count("full-width") == is_at_fault
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "value",
        ["数据：1，2", "'a：1'", "裂缝，一", "http://x/y", "C:/a", "data：v2", "A：裂缝", "a，b"],
    )
    def test_full_width_characters_and_colons_in_names(self, value, tmp_path):
        path = write(tmp_path, f"root: {value}")
        assert read_yaml(path) == {"root": value.strip("'")}

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0", 0),
            ("-0.5", -0.5),
            ("07", 7),
            ("00", 0),
            ("0x10", 16),
            ("0b11", 3),
            ("1_000", 1000),
            ("'010'", "010"),
            ("007.png", "007.png"),
            ('"1:30"', "1:30"),
            ("C:07", "C:07"),
        ],
    )
    def test_numbers_and_names_that_stay(self, text, value, tmp_path):
        assert read_yaml(write(tmp_path, f"a: {text}")) == {"a": value}

    def test_files_that_are_no_yaml(self, tmp_path):
        secret = write(tmp_path, "root:x:0:0:secret:/root:/bin/bash\n", "passwd")
        link = tmp_path / "link.yml"
        link.symlink_to(secret)
        binary = tmp_path / "binary.yml"
        binary.write_bytes(b"\xff\xfe\x00")
        pipe = tmp_path / "pipe.yml"
        os.mkfifo(pipe)
        for path, message in (
            (secret, "expected a .yml file"),
            (link, "expected a .yml file"),
            (binary, "it is not text in UTF-8"),
            (pipe, "was not found"),
            (tmp_path, "was not found"),
            (tmp_path / ("x" * 300 + ".yml"), "File name too long"),
        ):
            with pytest.raises(ConfigError) as caught:
                read_yaml(path)
            assert message in str(caught.value)
            assert "secret" not in str(caught.value)

    def test_text_of_a_file_is_not_shown(self, tmp_path):
        """A base may be any file with the suffix."""
        for text in ("root:x:0:0:secret:/root", "k: v\n  secret: : [", "a: [secret\nsecret2: }"):
            with pytest.raises(ConfigError) as caught:
                read_yaml(write(tmp_path, text))
            assert "secret" not in str(caught.value).replace(str(tmp_path), "")


class TestReading:
    def test_the_same_key_and_value_once_more(self, tmp_path):
        """Three of PaddleSeg's configs have it."""
        text = "loss:\n  types: [{type: A}]\n  types: [{type: A}]\n  coef: [1, 2]\n"
        assert read_yaml(write(tmp_path, text)) == {
            "loss": {"types": [{"type": "A"}], "coef": [1, 2]}
        }

    def test_a_key_over_a_merged_one(self, tmp_path):
        text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n"
        document = read_document(write(tmp_path, text))
        assert document.content["b"] == {"x": 3, "y": 2}
        assert document.definitions == {"a"}

    def test_definitions_are_what_aliases_use(self, tmp_path):
        text = "mean: &mean [1]\nunused: &unused 2\nall: {part: &part 3}\nb: [*mean, *part]\n"
        assert read_document(write(tmp_path, text)).definitions == {"mean", "all"}

    def test_byte_order_mark(self, tmp_path):
        assert read_yaml(write(tmp_path, "\ufeffa: 1")) == {"a": 1}

    def test_up_to_the_limits(self, tmp_path):
        deep = "a: " + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
        assert read_yaml(write(tmp_path, deep))
        text = "a: " + "x" * (MAX_SIZE - 6)
        assert len(read_yaml(write(tmp_path, text))["a"]) == MAX_SIZE - 6

    @settings(max_examples=60, deadline=None)
    @given(
        st.dictionaries(
            st.text("abcxyz ", min_size=1, max_size=5),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=3)
                ),
                max_leaves=10,
            ),
            min_size=1,
            max_size=4,
        )
    )
    def test_reads_as_pyyaml_does(self, tmp_path_factory, content):
        path = write(tmp_path_factory.mktemp("yaml"), yaml.safe_dump(content, allow_unicode=True))
        with codecs.open(str(path), "r", "utf-8") as file:
            expected = yaml.load(file, Loader=yaml.FullLoader)
        assert read_yaml(path) == expected


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10)
)
BOMBS = {
    "aliases": {"a.yml": ALIASES},
    "merges": {"a.yml": MERGES},
    "long_strings": {"a.yml": f"a: &a {'x' * 60000}\nb: [{', '.join(['*a'] * 1000)}]"},
    "lists": {"a.yml": "a: " + "[" * 3000 + "]" * 3000},
    "open_lists": {"a.yml": "a: " + "[" * 60000},
    "mappings": {"a.yml": "a: " + "{a: " * 3000 + "}" * 3000},
    "lines": {"a.yml": "".join(" " * i + "a:\n" for i in range(3000))},
    "recursive": {"a.yml": "a: &a [*a, *a]\nloss: &b {x: *a, y: *b}"},
    "huge": {"a.yml": "a: [" + "1, " * 40_000_000 + "1]"},
    "chain": {f"{'a' if i == 0 else i}.yml": f"_base_: {i + 1}.yml" for i in range(1000)},
    "diamonds": {
        f"{'a' if i == 0 else i}.yml": f"_base_: [{i + 1}.yml, {i + 1}.yml]" for i in range(40)
    }
    | {"40.yml": "a: 1"},
    "wide": {"a.yml": f"_base_: [{', '.join(['b.yml'] * 20_000)}]", "b.yml": "a: 1"},
    "many_large": {"a.yml": f"_base_: [{', '.join(['b.yml'] * 30)}]", "b.yml": "a: " + "x" * 60000},
    "circle": {"a.yml": "_base_: b.yml", "b.yml": "_base_: a.yml"},
}

#: Reads a config within the limits of the machine, and prints the error, seconds and MiB.
MEASURED = textwrap.dedent("""
    import resource, sys, time
    from pathlib import Path
    import paddleseg_autoloss
    from paddleseg_autoloss.errors import ConfigError
    from paddleseg_autoloss.integration.config import load_config

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
    for path in sys.argv[1:]:
        before, begun = peak(), time.process_time()
        try:
            load_config(path)
        except ConfigError as error:
            message = str(error)
        assert len(message) < 400 and "\\n" not in message, message
        print(f"{path}\\t{time.process_time() - begun}\\t{peak() - before}\\t{message}")
""")


def test_bombs_end_in_one_line(tmp_path):
    """Within 2 s and 200 MiB each, in a process that has no more."""
    paths = []
    for name, files in BOMBS.items():
        folder = tmp_path / name
        folder.mkdir()
        for file, text in files.items():
            write(folder, text, file)
        paths.append(str(folder / "a.yml"))
    script = write(tmp_path, MEASURED, "measured.py")
    result = subprocess.run(
        [sys.executable, str(script), *paths], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    lines = [line.split("\t") for line in result.stdout.splitlines() if line.startswith("/")]
    assert [line[0] for line in lines] == paths
    for path, seconds, mebibytes, message in lines:
        assert float(seconds) < 2, (path, seconds)
        assert float(mebibytes) < 200, (path, mebibytes)
        assert "expected at most" in message or "itself" in message, (path, message)
