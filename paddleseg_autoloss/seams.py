"""The seams to other libraries: every name of theirs whose place something of ours takes.

`SEAMS` lists them all; `replace` and `replaced` refuse what is not listed.  The table is shown in
``docs/architecture.md``.  Cures of faults in PaddleSeg's code have a table of their own,
`compat.SOURCE_FIXES`.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from types import FunctionType, ModuleType
from typing import Any

from paddleseg_autoloss.errors import UnsupportedVersionError

__all__ = ["SEAMS", "Seam", "check_seams", "redirect", "replace", "replaced"]

_LOOP = "paddleseg.core.train:train"
_PROCESS, _RUN = "never", "the run ends"


@dataclass(frozen=True)
class Seam:
    """One name of another library, and what takes its place.

    Args:
        name: the name.  ``model``, ``optimizer`` and ``dataset`` are the objects of a run.
        stand_in: what takes its place, in this package.
        why: what for.
        until: when the name is given back.
        user: the function or class that uses the name, as ``module:name``.
        uses: how the name occurs in its code; at least one of these must.
    """

    name: str
    stand_in: str
    why: str
    until: str
    user: str = _LOOP
    uses: tuple[str, ...] = ()


_SESSION, _RUN_SEAMS = "integration/session.py", "integration/run_seams.py"

SEAMS = (
    Seam(
        "paddleseg.core.train.train",
        "integration/training.py: train",
        "one run with learned loss weights around PaddleSeg's loop, whoever imported it before",
        _PROCESS,
    ),
    Seam(
        "Builder.build_component",
        "integration/builder.py",
        "the config of each loss is known",
        _PROCESS,
        "paddleseg.cvlibs.builder:SegBuilder",
        ("self.build_component",),
    ),
    Seam(
        "SegBuilder._build_loss",
        "integration/builder.py",
        "the keys loss_aggregator, on_nonfinite and held_out reach the loop",
        _PROCESS,
        "paddleseg.cvlibs.builder:SegBuilder",
        ("self._build_loss",),
    ),
    Seam(
        "paddle.load",
        "integration/loading.py: _load",
        "paddle.load runs the code that a file asks for; where PaddleSeg calls it, files are read "
        "without pickle, and other callers have Paddle's own",
        _PROCESS,
        "paddleseg.utils.utils:resume",
        ("paddle.load",),
    ),
    *(
        Seam(
            f"paddleseg.models.backbones.{module}.eval",
            "integration/safety.py: layer_named",
            "`norm_layer` of a config names a layer, and is not run as code",
            _PROCESS,
        )
        for module in ("vision_transformer", "cae")
    ),
    Seam(
        "paddleseg.utils.download._uncompress_file",
        "integration/safety.py: _uncompress",
        "an archive is unpacked into its own folder only",
        _PROCESS,
        "paddleseg.utils.download:download_file_and_uncompress",
        ("_uncompress_file",),
    ),
    Seam(
        "paddleseg.utils.utils.download_pretrained_model",
        "integration/safety.py: _download",
        "weights are downloaded into PaddleSeg's folder for them only",
        _PROCESS,
        "paddleseg.utils.utils:load_pretrained_model",
        ("download_pretrained_model",),
    ),
    Seam(
        "paddleseg.utils.utils.load_pretrained_model",
        "integration/loading.py: load_weights",
        "weights that fit nothing are an error, whoever imported the function before",
        _PROCESS,
        "paddleseg.utils.utils:load_entire_model",
        ("load_pretrained_model",),
    ),
    Seam(
        "paddleseg.utils.utils.load_entire_model",
        "cli/predict.py",
        "the weights are loaded before, with an error that names the flag",
        "the prediction ends",
        "paddleseg.core.predict:predict",
        ("utils.utils.load_entire_model",),
    ),
    Seam(
        "paddleseg.utils.visualize.visualize",
        "contour_files.py",
        "the contours of a prediction are drawn too",
        "the prediction ends",
        "paddleseg.core.predict:predict",
        ("utils.visualize.visualize",),
    ),
    Seam(
        "paddleseg.utils.progbar.Progbar",
        "compat.py: quiet",
        "with --quiet there is no progress bar",
        "the command ends",
        "paddleseg.core.predict:predict",
        ("progbar.Progbar",),
    ),
    Seam(
        "cv2.imwrite",
        "contour_files.py",
        "a picture that cannot be written is an error, and contours are written beside it",
        "the prediction ends",
        "paddleseg.core.predict:predict",
        ("cv2.imwrite",),
    ),
    Seam(
        "model.loss_computation",
        f"{_SESSION}: losses_of_step",
        "the losses of a step are computed, weighed and recorded",
        _RUN,
        uses=("model.loss_computation",),
    ),
    Seam(
        "optimizer.step",
        f"{_SESSION}: take_step",
        "a step with NaN or infinity is not taken; `step: each` takes several",
        _RUN,
        uses=("optimizer.step",),
    ),
    Seam(
        "optimizer.minimize",
        f"{_SESSION}: take_step",
        "the same under a gradient scaler, which calls minimize or step",
        _RUN,
        uses=("scaler.minimize", "scaler.step"),
    ),
    Seam(
        "optimizer.state_dict",
        f"{_RUN_SEAMS}: _state_dict",
        "the losses' state is saved",
        _RUN,
        uses=("optimizer.state_dict",),
    ),
    Seam(
        "optimizer.set_state_dict",
        f"{_RUN_SEAMS}: _set_state_dict",
        "the losses' state is restored",
        _RUN,
        "paddleseg.utils.utils:resume",
        ("optimizer.set_state_dict",),
    ),
    Seam(
        "model.set_state_dict",
        "integration/checkpoint.py: load_with_check",
        "a checkpoint of another network is refused",
        "the checkpoint is loaded",
        "paddleseg.utils.utils:resume",
        ("model.set_state_dict",),
    ),
    Seam(
        "model.forward",
        "integration/loss_trial.py: _batch_norm",
        "batch norm over several cards looks at one card: they are not connected yet",
        "the trial of the losses ends",
    ),
    Seam(
        "optimizer._apply_decay_param_fun",
        "integration/optimizer.py",
        "AdamW does not decay the losses' parameters",
        _PROCESS,
        "paddle.optimizer:AdamW._append_optimize_op",
        ("self._apply_decay_param_fun",),
    ),
    Seam(
        "optimizer.set_param_lr_fun",
        "integration/optimizer.py",
        "PaddleSeg's AdamWDL finds no layer for the losses' parameters",
        _PROCESS,
    ),
    Seam(
        "paddleseg.core.train.resume",
        f"{_RUN_SEAMS}: _resume",
        "checkpoints are checked before they are read",
        _RUN,
        uses=("resume",),
    ),
    Seam(
        "paddleseg.core.train.evaluate",
        f"{_RUN_SEAMS}: _evaluate",
        "Dice and kappa are shown beside PaddleSeg's curves",
        _RUN,
        uses=("evaluate",),
    ),
    Seam(
        "paddleseg.core.train.logger",
        "integration/report.py: TrainLogger",
        "each log line names the weights",
        _RUN,
        uses=("logger.info",),
    ),
    Seam(
        "paddleseg.utils.metrics.mean_iou",
        "integration/evaluation.py",
        "the pixel counts are read, from which all figures follow",
        "the evaluation ends",
        "paddleseg.core.val:evaluate",
        ("metrics.mean_iou",),
    ),
    Seam(
        "paddle.save",
        f"{_RUN_SEAMS}: _save",
        "checkpoints are written whole or not at all",
        _RUN,
        uses=("paddle.save",),
    ),
    Seam(
        "paddleseg.datasets.open",
        "data_checks/lists.py: open_list",
        "list files may have a byte order mark, blank lines, and spaces in file names",
        "the data set is built",
        "paddleseg.datasets:Dataset",
        ("open",),
    ),
    Seam(
        "paddle.io.DataLoader",
        "data_checks/readers.py: Loader",
        "what goes wrong in a reader is raised, and named",
        _RUN,
        uses=("paddle.io.DataLoader",),
    ),
    Seam(
        "paddle.base.libpaddle._set_process_pids",
        "data_checks/readers.py: _watch_nothing",
        "the death of a reading process is raised where its batch is asked for, and nowhere else",
        _RUN,
    ),
    Seam(
        "paddle.distributed.collective._new_process_group_impl",
        "integration/process_groups.py: _new_group",
        "processes on CPUs do not take the addresses of one group for those of the next",
        _RUN,
    ),
    Seam(
        "paddle.io.DistributedBatchSampler",
        f"{_RUN_SEAMS}: _sampler",
        "a run resumes in the midst of an epoch",
        _RUN,
        uses=("paddle.io.DistributedBatchSampler",),
    ),
    Seam(
        "paddle.amp.auto_cast",
        f"{_RUN_SEAMS}: _auto_cast",
        "a second evaluation has the precision of the first",
        _RUN,
        uses=("paddle.amp.auto_cast",),
    ),
    Seam(
        "paddle.amp.GradScaler",
        f"{_RUN_SEAMS}: _grad_scaler",
        "the scale of the gradients is known",
        _RUN,
        uses=("paddle.amp.GradScaler",),
    ),
    Seam(
        "paddleseg.core.train.time",
        "installation_checks/trial.py",
        "a training of five steps does not sleep for a second at its end",
        _RUN,
    ),
    Seam(
        "visualdl.LogWriter",
        f"{_RUN_SEAMS}: _log_writer",
        "PaddleSeg's curves and ours go to every logger of the run",
        _RUN,
        uses=("visualdl.LogWriter",),
    ),
)

_NAMES = {seam.name for seam in SEAMS}

#: Arguments of PaddleSeg's training function that this package reads or sets.
_LOOP_ARGUMENTS = {
    "model", "train_dataset", "optimizer", "save_dir", "iters", "batch_size", "resume_model",
    "save_interval", "losses", "to_static_training",
}  # fmt: skip


def replace(owner: Any, name: str, value: Any) -> None:
    """Set an attribute for good.

    Args:
        owner: a module, a class, or the model or optimizer of a run.
        name: of the attribute.
        value: what takes its place.

    Raises:
        LookupError: `SEAMS` does not list it, a mistake in this package.
    """
    if not any(f"{kind}.{name}" in _NAMES for kind in _kinds(owner)):
        raise LookupError(f"seams.SEAMS lists no {_kinds(owner)[0]}.{name}")
    setattr(owner, name, value)


def redirect(function: FunctionType, target: Callable) -> FunctionType:
    """Let a function call another one, also for those who have imported it already.

    Args:
        function: of a module; a call of it becomes a call of ``target``.
        target: takes the same arguments.

    Returns:
        A function that does what ``function`` did.

    Raises:
        LookupError: `SEAMS` does not list it.
    """
    name = f"{function.__module__}.{function.__name__}"
    if name not in _NAMES:
        raise LookupError(f"seams.SEAMS lists no {name}")
    stock = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__
    )
    functools.update_wrapper(stock, function)
    del stock.__wrapped__  # type: ignore[attr-defined]
    known_as = f"_redirected_{function.__name__}"
    function.__globals__[known_as] = target
    code = (lambda *args, **kwargs: _target(*args, **kwargs)).__code__  # type: ignore[name-defined]  # noqa: F821
    function.__code__ = code.replace(co_names=(known_as,))
    function.__defaults__ = None
    # Its signature and its source are still those of PaddleSeg.
    function.__wrapped__ = stock  # type: ignore[attr-defined]
    return stock


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute for the time being; see `replace`."""
    missing = object()
    previous = vars(owner).get(name, missing)
    replace(owner, name, value)
    try:
        yield
    finally:
        if previous is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, previous)


def _kinds(owner: Any) -> list[str]:
    """Return how `SEAMS` may call an owner."""
    if isinstance(owner, ModuleType):
        return [owner.__name__, owner.__name__.rpartition(".")[0]]
    if isinstance(owner, type):
        return [owner.__name__]
    return ["model", "optimizer", "dataset"]


def check_seams() -> None:
    """Check that PaddleSeg uses every name whose place something of ours takes.

    A training loop that steps, saves or logs in another way would leave out what stands there.

    Raises:
        UnsupportedVersionError: it does not; the error names what is missing, and what for.
    """
    users = {seam.user for seam in SEAMS if seam.uses}
    names = {user: _names_in(user) for user in users}
    for seam in SEAMS:
        if seam.uses and names[seam.user].isdisjoint(seam.uses):
            function = seam.user.split(":")[1]
            used = " or ".join(seam.uses)
            raise _unsupported(f"its {function} has no {used}, needed so that {seam.why}")
    loop = importlib.import_module("paddleseg.core.train")
    for argument in sorted(_LOOP_ARGUMENTS - inspect.signature(loop.train).parameters.keys()):
        raise _unsupported(f"its train() has no argument {argument}")


def _names_in(user: str) -> set[str]:
    """Return the names in the code of a function or class, with dots, and those it imports."""
    module, name = user.split(":")
    code = inspect.getsource(attrgetter(name)(importlib.import_module(module)))
    names = set()
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        if isinstance(node, (ast.Attribute, ast.Name)):
            names.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{imported.name}" for imported in node.names}
    return names


def _unsupported(what: str) -> UnsupportedVersionError:
    version = importlib.import_module("paddleseg").__version__
    return UnsupportedVersionError(
        f"paddleseg {version}: {what}; expected PaddleSeg 2.8, 2.9 or develop"
    )
