"""The parsers: one style for all commands, from ``autoloss`` and from ``tools/``."""

from __future__ import annotations

import inspect
import os
import re
import sys
from argparse import ArgumentParser

import paddleseg.core
import pytest
from paddleseg.utils import logger, progbar
from support.processes import ROOT, run_tool
from tqdm import tqdm

import paddleseg_autoloss
from paddleseg_autoloss.cli import options, train
from paddleseg_autoloss.cli.main import COMMANDS, main, parse_args
from paddleseg_autoloss.compat import quiet
from paddleseg_autoloss.flags import run_command

REQUIRED = {
    "predict": ["--model_path", "m", "--image_path", "i"],
    "init": ["images", "masks"],
    "show": ["CAGrad"],
    "run": ["train.py"],
}


def printed(capsys, *words: str) -> tuple[int, str, str]:
    """Run a command line that ends in its parser: the exit status and what was printed."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code, *capsys.readouterr()


def actions(name: str) -> list:
    parser = ArgumentParser()
    COMMANDS[name].add_flags(parser)
    return parser._actions


@pytest.mark.parametrize("text", ["one line", 100_000 * "a line\n"])
class TestOutputThatCannotBeWritten:
    def test_full_disk(self, text, capsys, monkeypatch):
        with open("/dev/full", "w") as output:
            monkeypatch.setattr(sys, "stdout", output)
            assert run_command(lambda: print(text)) == 1
        message = "error: cannot write the output: No space left on device; free some space"
        assert capsys.readouterr().err.startswith(message)

    def test_program_that_does_not_read_on(self, text, capsys, monkeypatch):
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w") as output:
            monkeypatch.setattr(sys, "stdout", output)
            assert run_command(lambda: print(text)) == 141
        message = "error: the program that reads the output has ended\n"
        assert capsys.readouterr().err == message


def test_version(capsys):
    status, out, _ = printed(capsys, "--version")
    assert (status, out) == (0, f"paddleseg_autoloss {paddleseg_autoloss.__version__}\n")


def test_help_lists_the_commands(capsys):
    _, out, _ = printed(capsys, "--help")
    assert re.findall(r"^    (\w+) ", out, flags=re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_default(name, capsys):
    status, out, _ = printed(capsys, name, "--help")
    assert status == 0
    for action in actions(name):
        assert action.help, action.dest
        if isinstance(action.default, (str, int, float)) and action.nargs != 0:
            assert action.default is False or "%(default)s" in action.help, action.dest
    assert all(flag in out for action in actions(name) for flag in action.option_strings)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["train", "--iter", "3"], "; did you mean --iters?"),
        (["compare", "--sample=2"], "; did you mean --samples?"),
        (["train", "--do_evall", "--save_intervl", "20"], "; did you mean --do_eval?"),
        (["val", "--qqqqq"], ""),
        (["list", "everything"], ""),
    ],
)
def test_unknown_flags_name_the_nearest(words, hint, capsys):
    """And flags have no abbreviations."""
    status, _, err = printed(capsys, *words)
    assert status == 2
    assert f"usage: autoloss {words[0]} [-h]" in err
    assert err.endswith(f"unrecognized arguments: {' '.join(words[1:])}{hint}\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--auc_roc"], True),
        (["--auc_roc", "True"], True),
        (["--auc_roc", "False"], False),
        (["--auc_roc", "--opts", "a=b"], True),
    ],
)
def test_auc_roc_is_a_flag_and_takes_the_form_of_paddleseg(words, expected):
    assert parse_args(["val", *words]).auc_roc is expected


def test_auc_roc_of_something_else(capsys):
    status, _, err = printed(capsys, "val", "--auc_roc", "yes")
    assert status == 2
    assert "--auc_roc: expected True, False or nothing, found yes" in err


@pytest.mark.parametrize("name", ["train", "val", "predict", "diagnose", "compare"])
def test_tool_runs_the_command_of_its_name(name):
    script = (ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8")
    assert f'tool_main("{name}")' in script
    assert len(script.splitlines()) < 15


def test_command_line_in_messages_is_the_one_that_was_typed():
    """``usage`` names the script, and so does the command that a report repeats."""
    result = run_tool("tools/compare.py", "--seed=3")
    assert result.returncode == 2
    assert "usage: python tools/compare.py [-h]" in result.stderr
    assert "unrecognized arguments: --seed=3" in result.stderr


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("auto_ce_dise.yml", "auto_ce_dice.yml"),
        ("ocrnet_auot.yml", "heads/ocrnet_auto.yml"),
        ("compare/optic_dsic.yml", "compare/optic_disc.yml"),
    ],
)
def test_nearest_config_is_suggested_from_any_folder(name, nearest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", name]) == 1
    expected = f"error: --config: {name} was not found; did you mean {nearest}?\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("typed", "name"), [("~/runs", "runs"), ("~", ""), ("runs~", None), ("./~", None)]
)
def test_the_home_folder_is_meant_also_behind_an_equals_sign(typed, name, tmp_path, monkeypatch):
    """A shell replaces ~ only at the beginning of a word."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    seen = []
    monkeypatch.setattr(train, "run", seen.append)
    main(["train", "--config", "a.yml", f"--save_dir={typed}"])
    expected = typed if name is None else str(tmp_path / name)
    assert seen[0].save_dir.rstrip("/") == expected
    assert f"--save_dir={typed}" in seen[0].command_line.replace("'", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_the_line_that_was_typed(name, monkeypatch):
    seen = []
    monkeypatch.setattr(COMMANDS[name], "run", lambda args: seen.append(args.command_line))
    words = [name, *REQUIRED.get(name, [])]
    assert main(words, ("python", "-m", "paddleseg_autoloss")) == 0
    assert seen == [" ".join(["python", "-m", "paddleseg_autoloss", *words])]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["check", "--help"]])
def test_help_says_what_the_exit_status_means(words, capsys):
    _, out, _ = printed(capsys, *words)
    text = " ".join(out.split())
    assert "Exit status: 0: done; 1: an error, named in the last line on standard error;" in text


def test_no_warning_that_nobody_can_act_upon():
    result = run_tool("-m", "paddleseg_autoloss", "--version")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("level", ["warning", "error"])
def test_quiet_leaves_warnings_and_errors(level, capsys):
    with quiet():
        logger.info("a line")
        print("a table")
        progbar.Progbar(target=2).update(1)
        for _ in tqdm(range(2)):
            pass
        getattr(logger, level)("something is wrong")
    out, err = capsys.readouterr()
    assert re.fullmatch(rf".*\[{level.upper()}\]\tsomething is wrong\n", out)
    assert err == ""
    progbar.Progbar(target=2).update(1)
    for _ in tqdm(range(3)):
        pass
    err = capsys.readouterr().err
    assert "1/2 [" in err
    assert "3/3 [" in err


def with_argument(function, name):
    """A function of a newer PaddleSeg, which takes one argument more."""

    def newer(*args, **kwargs):
        raise AssertionError(name)

    signature = inspect.signature(function)
    extra = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
    newer.__signature__ = signature.replace(parameters=[*signature.parameters.values(), extra])
    return newer


def test_flags_of_newer_releases_are_there_where_the_loop_has_them(monkeypatch):
    """PaddleSeg 2.9 is not on the package index; its signatures are put in place here."""
    assert not hasattr(parse_args(["train"]), "use_multilabel")
    assert not hasattr(parse_args(["train"]), "early_stop_intervals")
    core = paddleseg.core
    monkeypatch.setattr(core, "train", with_argument(core.train, "early_stop_intervals"))
    monkeypatch.setattr(core, "evaluate", with_argument(core.evaluate, "use_multilabel"))
    args = parse_args(["train", "--early_stop_intervals", "3", "--use_multilabel"])
    assert train.newer_arguments(args) == {"early_stop_intervals": 3}
    assert options.multilabel(args) == {"use_multilabel": True}
    assert (
        options.multilabel(parse_args(["train"]))
        == train.newer_arguments(parse_args(["train"]))
        == {}
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_the_default_of_every_flag_with_a_value(name):
    """``--config`` has none."""
    for action in actions(name):
        takes_value = action.option_strings and action.nargs != 0 and not action.required
        if takes_value and action.dest != "config":
            assert "default" in action.help, action.option_strings
