"""Names that a spreadsheet would run, that Markdown or HTML would take for markup."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from support.comparison import CONFIGS, comparison_file, pretend, write_base
from support.processes import ROOT

from paddleseg_autoloss.cli.main import parse_args
from paddleseg_autoloss.comparison.plan_reader import read_plan
from paddleseg_autoloss.comparison.report import write_report
from paddleseg_autoloss.comparison.results import Results, read_results
from paddleseg_autoloss.documents import Code, Document, Panel, Paragraph
from paddleseg_autoloss.documents.panels import draw_svg
from paddleseg_autoloss.errors import ConfigError, DataError
from paddleseg_autoloss.escaping import escape_math
from paddleseg_autoloss.files import write_json

TEMPLATES = ROOT / "paddleseg_autoloss/documents/templates"
NAMES = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-7",
    "@SUM(A1)",
    "\t=8",
    "'quoted",
    "<script>alert(1)</script>",
    "a|b\n\n# heading",
    "```\n<img src=x onerror=alert(1)>",
    "![pixel](http://localhost/pixel.png)",
    r"$\undefined{$",
    '"><b>',
]


@pytest.fixture(scope="module")
def reported(tmp_path_factory, fundus):
    tmp_path = tmp_path_factory.mktemp("strangers")
    variants = [{"name": name, "coef": [i + 1, 1]} for i, name in enumerate(NAMES)]
    base = write_base(tmp_path, fundus)
    file = comparison_file(tmp_path, base=str(base), variants=variants, seeds=2)
    plan = read_plan(parse_args(["compare", str(file)]), CONFIGS)
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5 + 0.01 * run.seed))
    for folder in folders:
        result = json.loads(folder.result_path.read_text())
        write_json(folder.result_path, result | {"weights": {"=1+1": 0.5, "b": None}})
        (folder.path / "loss_weights.csv").write_text(
            "iteration,term,raw,weight,weighted\n"
            "1,'=1+1,1,0.5,0.5\n1,$\\undefined{$,1,0.5,0.5\n2,'=1+1,1,0.6,0.5\n"
        )
    folders[0].result_path.unlink()
    folders[0].write_error("=2+2\n```\n</pre><script>alert(2)</script>", folders[0].log_path)
    write_report(Results(plan, folders), tmp_path / "out")
    return tmp_path / "out"


def test_no_spreadsheet_runs_a_name(reported):
    with open(reported / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 2 * len(NAMES)
    for row in rows:
        for cell in row:
            is_number = re.fullmatch(r"-?[\d.e+-]+", cell)
            assert is_number or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")), cell


def test_names_read_back_as_they_were(reported):
    table = read_results(reported / "results.csv")
    assert list(dict.fromkeys(table.variant)) == NAMES
    assert "=2+2" in set(table.error)
    assert "=1+1 0.5, b nan" in set(table.weights)


def test_markdown_has_no_markup_of_names(reported):
    report = (reported / "report.md").read_text()
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", report, flags=re.DOTALL | re.MULTILINE)
    assert "<" not in outside
    assert "\n# heading" not in outside
    assert "](http" not in outside
    assert "alert(2)" not in outside
    tables = re.findall(r"(?:^\|.*\n)+", outside, flags=re.MULTILINE)
    assert len(tables) >= 5
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


class Page(HTMLParser):
    """Collects the tags and the text of a page, and the text of its scripts."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.addresses, self.scripts = set(), "", [], []
        self._in_script = False

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "xlink:href")]
        self._in_script = tag == "script"
        assert not [k for k, _ in attributes if k.startswith("on")]

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)
        else:
            self.text += data


def test_page_shows_names_as_they_are(reported):
    page = Page()
    page.feed((reported / "report.html").read_text())
    assert "b" not in page.tags
    assert page.scripts == [TEMPLATES.joinpath("page.js").read_text()]
    assert page.addresses
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    for name in NAMES:
        assert name in page.text, name


def test_a_fence_cannot_be_left():
    document = Document("a")
    document.add(Code("````\n<b>"), Paragraph("~~~"))
    assert "\n`````text\n````\n<b>\n`````\n" in document.markdown()
    assert r"\~\~\~" in document.markdown()


@pytest.mark.parametrize("content", [b"no archive", b"PK\x03\x04 cut short"])
def test_broken_samples_are_named(content, parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))
    (folders[0].path / "samples.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"samples.npz: expected arrays of numbers: "):
        write_report(Results(plan, folders), tmp_path / "out")


def test_samples_that_lack_an_array(parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))
    np.savez(folders[0].path / "samples.npz", image0=np.zeros([4, 4, 3], "uint8"))
    with pytest.raises(DataError, match=r"^samples.npz of .*: expected the array 'truth0' in each"):
        write_report(Results(plan, folders), tmp_path / "out")


@pytest.mark.parametrize("char", ["\x00", "\x01", "\x0b", "\x1b", "\ufffe", "\ud800"])
def test_control_characters_do_not_break_a_chart(char):
    """Files of strangers may have them in the names of terms, which no config has checked."""

    def draw(axes, notes):
        line = axes.plot([0, 1], [0, 1], "o", label=escape_math(f"a{char}b"))[0]
        notes.add(line, [f"a{char}b", "c"])
        axes.legend()

    drawn = draw_svg(Panel(f"title{char}", draw), "p")
    assert char not in drawn
    assert "a\ufffdb" in drawn


def test_broken_results_are_named(parse, tmp_path, base):
    plan = parse(comparison_file(tmp_path, base=str(base), seeds=1))
    folders = pretend(plan, tmp_path / "out", lambda run: (0.5, 0.5))
    folders[0].result_path.write_text('{"variant": ')
    with pytest.raises(DataError, match=r"result.json: expected a JSON file: "):
        Results(plan, folders)


def test_names_that_give_the_same_folder(parse, tmp_path):
    variants = [{"name": "a b", "coef": [1, 1]}, {"name": "a+b", "coef": [1, 2]}]
    with pytest.raises(
        ConfigError, match=r"because folders are named after them, found 'a b' and 'a\+b'"
    ):
        parse(comparison_file(tmp_path, variants=variants))
