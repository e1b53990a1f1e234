"""What the docs say runs: docstring examples, the methods' page, the layers."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re

import pytest
import yaml
from paddleseg.cvlibs import manager
from support import ROOT

import paddleseg_autoloss
from paddleseg_autoloss.catalog import LEFT_OUT, config_snippet, entries
from paddleseg_autoloss.cli.main import main
from paddleseg_autoloss.weighting import METHODS

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(paddleseg_autoloss.__path__, "paddleseg_autoloss.")
)
#: DESIGN: a file imports only from layers below its own.
LAYERS = [
    "installation",
    "errors",
    "conflicts",
    "missing_packages",
    "late_imports",
    "escaping",
    "files",
    "locks",
    "signals",
    "formulas",
    "text_tables",
    "plot_styles",
    "contours",
    "checks",
    "yaml_files",
    "tensor_files",
    "seams",
    "compat",
    "fonts",
    "documents",
    "flags",
    "ranks",
    "tensors",
    "hooks",
    "weighting",
    "gradients",
    "catalog",
    "datasets",
    "data_checks",
    "own_images",
    "contour_files",
    "losses",
    "mtl",
    "integration",
    "diagnosis",
    "comparison",
    "installation_checks",
    "cli",
    "__main__",
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, raise_on_error=False).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_has_a_docstring(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for public in getattr(module, "__all__", []):
        assert hasattr(module, public)
        member = getattr(module, public)
        if callable(member):
            assert member.__doc__, f"{name}.{public}"


@pytest.mark.parametrize("name", METHODS)
def test_every_component_has_an_example(name):
    examples = doctest.DocTestFinder().find(manager.LOSSES[name], name)
    assert any(example.examples for example in examples)
    runner = doctest.DocTestRunner()
    for example in examples:
        assert runner.run(example).failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_the_layers(name):
    own = LAYERS.index(name.split(".")[1])
    source = (ROOT / name.replace(".", "/")).with_suffix(".py")
    if not source.exists():
        source = ROOT / name.replace(".", "/") / "__init__.py"
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paddleseg_auto"):
            assert LAYERS.index(node.module.split(".")[1]) <= own, f"{name} imports {node.module}"


def test_pages_of_the_methods_are_up_to_date(page_writer):
    """If they are not: python docs/write_methods_page.py."""
    writer = page_writer("write_methods_page")
    assert writer.OVERVIEW.read_text(encoding="utf-8") == writer.overview()
    assert writer.MENU.read_text(encoding="utf-8") == writer.menu()
    files = {path.name: path.read_text(encoding="utf-8") for path in writer.FOLDER.iterdir()}
    assert files == writer.pages()
    assert files.keys() == {f"{name}.md" for name in METHODS}


def test_lists_of_the_methods_are_up_to_date(page_writer):
    """If they are not: python docs/write_methods_page.py."""
    page = (ROOT / "docs/which_method.md").read_text(encoding="utf-8")
    assert page_writer("write_methods_page").lists_page() == page
    assert page.count("<!-- methods: begin -->\n- **losses**: ") == 1


def test_formulas_of_the_pages_can_be_shown(page_writer):
    """One line within text; lines that are aligned say so; braces and environments match."""
    page = "\n".join(page_writer("write_methods_page").pages().values())
    for formula in re.findall(r"\$`(.*?)`\$", page, flags=re.DOTALL):
        assert "\n" not in formula
        assert formula.count("{") == formula.count("}"), formula
    for formula in re.findall(r"```math\n(.*?)```", page, flags=re.DOTALL):
        assert formula.count("{") == formula.count("}"), formula
        assert ("&" in formula or r"\\" in formula) <= (r"\begin{aligned}" in formula)
        for left, right in ((r"\left", r"\right"), (r"\begin", r"\end")):
            pattern = r"(?![a-z])"
            counts = [len(re.findall(re.escape(side) + pattern, formula)) for side in (left, right)]
            assert counts[0] == counts[1], formula


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
class TestCatalog:
    def test_docstring_is_complete(self, entry):
        text = entry.docstring()
        assert "\nDeviations:\n" in text or not entry.authors
        assert "\nArgs:\n" in text
        own = inspect.signature(entry.method).parameters
        for argument in own:
            assert re.search(rf"^    {argument}: ", text, flags=re.MULTILINE), argument
        assert re.search(r"\b(weights?|coefficients?|update)\b", text)

    def test_snippet_is_a_config_that_builds(self, entry):
        (component,) = yaml.safe_load(config_snippet(entry.name))["loss"]["types"]
        kind, losses = component.pop("type"), component.pop("losses")
        inner = [manager.LOSSES[loss["type"]]() for loss in losses]
        built = manager.LOSSES[kind](inner, **component)
        assert isinstance(built.aggregator.weighting, entry.method)
        assert repr(built.aggregator.weighting) == repr(entry.method(len(losses)))


def shown(capsys, *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def test_list_fits_the_terminal(capsys):
    listed = shown(capsys, "list")
    for name in METHODS:
        assert re.search(rf"^{name} ", listed, flags=re.MULTILINE)
    for name in LEFT_OUT:
        assert f"Left out: {name}: " in listed
    assert max(map(len, listed.splitlines())) <= 80


@pytest.mark.parametrize("name", METHODS)
def test_show_is_for_people(name, capsys):
    """No LaTeX, no markup, 80 columns; the symbols of the formulas are there."""
    text = shown(capsys, "show", name)
    summary = METHODS[name].__doc__.split("\n")[0]
    assert re.split(r" \(|:math:", summary)[0].strip() in " ".join(text.split())
    assert not re.search(r"\\|:math:|\.\. math|`", text)
    assert max(map(len, text.splitlines())) <= 80


def test_formulas_in_the_terminal(capsys):
    text = shown(capsys, "show", "CAGrad")
    assert "calpha: 0.5" in text
    assert "‖d - g₀‖ ≤ c ‖g₀‖" in text
    assert "average gradient g₀ = (1/K) Σᵢ gᵢ" in text
    assert "wᵢ(t) ∝ wᵢ(t-1) exp(η (sᵢ(t))/(sᵢ(0)))" in shown(capsys, "show", "ExcessMTL")


def test_show_of_a_method_that_is_not_there(capsys):
    assert main(["show", "MOML"]) == 1
    assert capsys.readouterr().err.startswith("error: method: MOML is left out: every step ")
    assert main(["show", "CAGard"]) == 1
    expected = "error: method: there is no 'CAGard'; did you mean CAGrad?\n"
    assert capsys.readouterr().err == expected


def test_package_version_is_in_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{paddleseg_autoloss.__version__}]" in changelog
