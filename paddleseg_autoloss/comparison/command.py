"""The command ``autoloss compare``, after its flags are parsed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from paddleseg.utils import logger

from paddleseg_autoloss.comparison.across import read_across
from paddleseg_autoloss.comparison.across_report import write_across
from paddleseg_autoloss.comparison.engines import Engine, LocalEngine
from paddleseg_autoloss.comparison.folders import (
    RunFolder,
    check_written,
    prepare,
    prepare_others,
)
from paddleseg_autoloss.comparison.job import Commands
from paddleseg_autoloss.comparison.plan import Plan
from paddleseg_autoloss.comparison.plan_reader import read_plan
from paddleseg_autoloss.comparison.ray_engine import RayEngine
from paddleseg_autoloss.comparison.report import say_result, write_report, write_setup
from paddleseg_autoloss.comparison.results import Results
from paddleseg_autoloss.comparison.runner import Runner
from paddleseg_autoloss.errors import ConfigError, RunsFailed
from paddleseg_autoloss.files import check_save_dir
from paddleseg_autoloss.locks import lock_folder

__all__ = ["compare_from"]

#: Flags that say what to train, or with what, and what they are if they are not given.  The device
#: is not among them: its default depends on the machine.
_FOR_RUNS = {
    **dict.fromkeys((
        "config", "methods", "grid", "seeds", "lr_grid", "lr_seeds", "validation", "iters",
        "save_interval", "opts", "jobs",
    )),
    "engine": "local", "cores": 1, "num_workers": 0, "log_iters": 10, "samples": 4,
    "report_only": False,
}  # fmt: skip


def compare_from(args: Namespace, config_dir: Path, command: str) -> None:
    """Run ``autoloss compare`` with its flags.

    Args:
        args: the parsed flags.
        config_dir: folder in which config names without a folder are searched.
        command: the command line, for the report.

    Raises:
        AutoLossError: a value is invalid; or some runs failed, which is raised after all others are
            done.
    """
    if args.across:
        _compare_across(args, command)
        return
    plan = read_plan(args, config_dir)
    save_dir = Path(args.save_dir or Path("output") / "compare" / plan.name).absolute()
    check_save_dir(save_dir)
    if args.report_only:
        _report(plan, save_dir, args)
        return
    save_dir.mkdir(parents=True, exist_ok=True)
    with lock_folder(save_dir, "comparison"):
        folders = prepare(plan, save_dir)
        write_setup(save_dir, command, _jobs(args))
        engine = _engine(Commands(plan, args), save_dir)
        try:
            failed = _run(Runner(folders, engine))
            others = prepare_others(plan, save_dir, Results(plan, folders).rates)
            if others:
                folders += others
                failed += _run(Runner(others, engine))
        finally:
            engine.close()
        _report(plan, save_dir, args)
    if failed:
        raise RunsFailed(
            f"{len(failed)} of {len(folders)} runs failed; the report lists them; run the same "
            "command again to repeat them"
        )


def _jobs(args: Namespace) -> str:
    if args.engine == "ray":
        return f"{args.jobs or 'as many as fit'}, in a Ray cluster:"
    return str(args.jobs or 1)


def _engine(commands: Commands, save_dir: Path) -> Engine:
    if commands.args.engine == "ray":
        return RayEngine(commands, save_dir)
    return LocalEngine(commands)


def _compare_across(args: Namespace, command: str) -> None:
    """Write the report across data sets.

    Raises:
        AutoLossError: results are missing, or the flags do not fit together.
    """
    given = [f"--{name}" for name, default in _FOR_RUNS.items() if getattr(args, name) != default]
    if args.samples == 0:
        given[given.index("--samples")] = "--no_samples"
    if args.configs or given:
        found = (args.configs or given)[0]
        raise ConfigError(f"--across: expected finished comparisons only, found {found}")
    save_dir = Path(args.save_dir or Path("output") / "across").absolute()
    check_save_dir(save_dir)
    if (save_dir / "results.csv").exists():
        raise ConfigError(
            f"--save_dir: expected a folder without a comparison, found one in {save_dir}"
        )
    write_across(read_across(args.across, args.baseline), save_dir, command)
    logger.info(f"The report is in {save_dir / 'report.html'} and {save_dir / 'report.md'}")


def _run(runner: Runner) -> list[RunFolder]:
    try:
        return runner.run()
    except KeyboardInterrupt:
        done = sum(folder.is_done for folder in runner.folders)
        logger.info(
            f"Stopped with {done} of {len(runner.folders)} runs done; run the same command again "
            "to continue, or with --report_only for a report on the finished runs"
        )
        raise


def _report(plan: Plan, save_dir: Path, args: Namespace) -> None:
    folders = [RunFolder(save_dir, run) for run in plan.runs()]
    others = plan.runs_at(Results(plan, folders).rates)
    folders += [RunFolder(save_dir, run) for run in others]
    if not any(folder.is_done or folder.error() for folder in folders):
        raise ConfigError(f"--save_dir: expected finished runs, found none in {save_dir}")
    check_written(plan, save_dir, folders)
    results = Results(plan, folders)
    write_report(results, save_dir, samples=args.samples > 0)
    for line in say_result(results):
        logger.info(line)
    logger.info(f"The report is in {save_dir / 'report.html'} and {save_dir / 'report.md'}")
