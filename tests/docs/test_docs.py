"""What the docs say runs: docstring examples, README's snippets and commands, the layers."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import warnings

import paddle
import pytest
import yaml
from paddleseg.cvlibs import manager
from support import ROOT

import paddleseg_autoloss
from paddleseg_autoloss.catalog import LEFT_OUT, config_snippet, entries, markdown_page
from paddleseg_autoloss.cli.main import main
from paddleseg_autoloss.weighting import METHODS

README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(paddleseg_autoloss.__path__, "paddleseg_autoloss.")
)
#: DESIGN: a file imports only from layers below its own.
LAYERS = [
    "installation",
    "errors",
    "missing_packages",
    "escaping",
    "files",
    "locks",
    "signals",
    "formulas",
    "text_tables",
    "checks",
    "yaml_files",
    "tensor_files",
    "seams",
    "compat",
    "flags",
    "ranks",
    "tensors",
    "weighting",
    "gradients",
    "catalog",
    "datasets",
    "data_checks",
    "own_images",
    "losses",
    "mtl",
    "integration",
    "diagnosis",
    "comparison",
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


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", snippets("yaml"))
def test_readme_configs_name_real_components(snippet):
    def check(value):
        if isinstance(value, dict):
            if "type" in value:
                assert value["type"] in manager.LOSSES.components_dict
            for inner in value.values():
                check(inner)
        elif isinstance(value, list):
            for inner in value:
                check(inner)

    check(yaml.safe_load(snippet))


@pytest.mark.parametrize("snippet", snippets("python"))
def test_readme_python_compiles_and_imports(snippet):
    tree = ast.parse(snippet)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert imports
    exec(compile(ast.Module(imports, []), "README", "exec"), {})


def test_readme_loop_of_ones_own_learns_without_decay():
    """Adam's steps have at most the length of the learning rate; decay of 100 would add to them."""
    (code,) = (snippet for snippet in snippets("python") if "for images" in snippet)
    assert code.count("weight_decay=0.01") == 1
    batches = [(paddle.rand([2, 3, 4, 4]), paddle.randint(0, 2, [2, 4, 4])) for _ in range(5)]
    convolution = paddle.nn.Conv2D(3, 2, 1)
    model = paddle.nn.LayerList([convolution])
    model.forward = lambda images: [convolution(images)]
    names = {"model": model, "loader": batches}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code.replace("weight_decay=0.01", "weight_decay=100.0"), names)
    learned = names["loss"].aggregator.weighting.learned().numpy()
    assert (learned != 1).all()
    assert abs(learned - 1).max() < 5 * 0.001 * 1.05


def test_readme_commands_name_files_that_exist():
    commands = "\n".join(snippets("bash"))
    for tool in set(re.findall(r"tools/\w+\.py", commands)):
        assert (ROOT / tool).is_file(), tool
    for config in set(re.findall(r"--config (\S+\.yml)", commands)):
        if not config.startswith(("my_", "path/")):
            assert (ROOT / "configs" / config).is_file(), config


def test_page_of_the_methods_is_up_to_date():
    """If it is not: python docs/write_methods_page.py."""
    assert (ROOT / "docs/methods.md").read_text(encoding="utf-8") == markdown_page()
    assert "docs/methods.md" in README


def test_lists_of_the_readme_are_up_to_date(page_writer):
    """If they are not: python docs/write_methods_page.py."""
    assert page_writer("write_methods_page").readme() == README
    assert README.count("<!-- methods: begin -->\n- **losses**: ") == 1


def test_formulas_of_the_page_can_be_shown():
    """One line within text; lines that are aligned say so; braces and environments match."""
    page = markdown_page()
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
    assert main(["show", "MoDo"]) == 1
    assert capsys.readouterr().err.startswith("error: method: MoDo is left out: it needs")
    assert main(["show", "CAGard"]) == 1
    expected = "error: method: there is no 'CAGard'; did you mean CAGrad?\n"
    assert capsys.readouterr().err == expected


def test_package_version_is_in_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"[{paddleseg_autoloss.__version__}]" in changelog


def test_readme_is_finished_and_its_links_lead_somewhere():
    assert "@@" not in README
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_readme_states_the_length_of_the_demo():
    demo = yaml.safe_load((ROOT / "configs/_base_/fastscnn_demo.yml").read_text())
    assert f"Fast-SCNN, {demo['iters']} iterations" in README
