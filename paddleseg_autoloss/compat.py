"""All code that depends on versions of Paddle and PaddleSeg; no other module tests a version.

It is imported before everything else of the package.  It contains two kinds of cure: how the
modules below are imported, and the table `SOURCE_FIXES`, in which each entry replaces one faulty
expression of a PaddleSeg function.  An entry is applied only if the installed PaddleSeg contains
the fault and the installed Paddle is affected by it.  So a PaddleSeg that has corrected a fault is
not changed.
"""

from __future__ import annotations

# Paddle 2.6.2 contains its own zlib; if Python's zlib is loaded after it, the process crashes in
# inflateReset2 ("zlib.error -2 inconsistent stream state").
import zlib  # noqa: F401  isort: skip

import ast
import importlib
import inspect
import io
import sys
import textwrap
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partialmethod
from operator import attrgetter
from types import CodeType, FunctionType
from typing import Any, TextIO

with warnings.catch_warnings():
    # Only who compiles operators of their own can do anything about it.
    warnings.filterwarnings("ignore", message="No ccache found")
    import paddle
    from paddle import Tensor
    from paddle.base.layer_helper import LayerHelper
    from tqdm import tqdm

from paddleseg_autoloss.late_imports import imported_at_first_use
from paddleseg_autoloss.seams import replaced

# PaddleSeg needs scikit-learn for the area under the ROC curve only, and it takes a quarter of
# the start of every command.
with imported_at_first_use("sklearn.metrics", "the area under the ROC curve"):
    from paddleseg.utils import logger, progbar

__all__ = [
    "APPLIED_FIXES",
    "SOURCE_FIXES",
    "SourceFix",
    "apply_source_fixes",
    "count_operations",
    "create_accumulators",
    "found_overflow",
    "quiet",
]

_PADDLE_MAJOR = int(paddle.__version__.split(".")[0])


@dataclass(frozen=True)
class SourceFix:
    """One faulty expression of PaddleSeg and its cure.

    Args:
        target: the function, as ``module:qualified.name``.
        faulty: the expression or statement in PaddleSeg's code; its layout does not matter.
        cure: the code that replaces it.
        symptom: the fault that users see without the cure.
        versions: the versions with the fault.
        since_paddle: the first major version of Paddle that is affected.
    """

    target: str
    faulty: str
    cure: str
    symptom: str
    versions: str
    since_paddle: int = 2


_PROMOTION = "TypeError: (InvalidType) Type promotion only support calculations between ..."
_LOSSES = "paddleseg.models.losses"

SOURCE_FIXES = (
    SourceFix(
        f"{_LOSSES}.cross_entropy_loss:CrossEntropyLoss._post_process_loss",
        faulty="label * mask",
        cure="label * mask.astype(label.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: CrossEntropyLoss with class weights",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.cross_entropy_loss:CrossEntropyLoss._post_process_loss",
        faulty="paddle.ones_like(label)",
        cure="paddle.ones_like(mask)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: CrossEntropyLoss",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.ohem_cross_entropy_loss:OhemCrossEntropyLoss.forward",
        faulty="prob + (1 - valid_mask)",
        cure="prob + (1 - valid_mask).astype(prob.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: OhemCrossEntropyLoss",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.rmi_loss:RMILoss.forward_sigmoid",
        faulty="labels_4D != self.ignore_index",
        cure="(labels_4D != self.ignore_index).astype(labels_4D.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: RMILoss",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.decoupledsegnet_relax_boundary_loss:RelaxBoundaryLoss.forward",
        faulty="self.relax_onehot(label, c)",
        cure="self.relax_onehot(label, c).astype(logit.dtype)",
        symptom="on Paddle 2 a wrong value with no gradient, on Paddle 3 " + _PROMOTION,
        versions="PaddleSeg 2.8.0: RelaxBoundaryLoss",
    ),
    SourceFix(
        f"{_LOSSES}.gscnn_dual_task_loss:DualTaskLoss.forward",
        faulty="logit * mask",
        cure="logit * mask.astype(logit.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: DualTaskLoss",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.gscnn_dual_task_loss:DualTaskLoss.forward",
        faulty="labels * mask",
        cure="labels * mask.astype(labels.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: DualTaskLoss",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.gscnn_dual_task_loss:DualTaskLoss.forward",
        faulty="loss * mask",
        cure="loss * mask.astype(loss.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: DualTaskLoss",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.point_cross_entropy_loss:PointCrossEntropyLoss.forward",
        faulty="paddle.ones_like(label)",
        cure="paddle.ones_like(mask)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: PointCrossEntropyLoss",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.binary_cross_entropy_loss:BCELoss.forward",
        faulty="weight_pos * label",
        cure="weight_pos * label.astype(weight_pos.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: BCELoss with weight: dynamic",
        since_paddle=3,
    ),
    SourceFix(
        f"{_LOSSES}.binary_cross_entropy_loss:BCELoss.forward",
        faulty="weight_neg * (1 - label)",
        cure="weight_neg * (1 - label).astype(weight_neg.dtype)",
        symptom=_PROMOTION,
        versions="PaddleSeg 2.8.0 on Paddle 3: BCELoss with weight: dynamic",
        since_paddle=3,
    ),
    *(
        SourceFix(
            f"paddleseg.models.{place}.flow_warp",
            faulty="paddle.transpose(flow, (0, 2, 3, 1)) / norm",
            cure="paddle.transpose(flow, (0, 2, 3, 1)) / norm.astype(flow.dtype)",
            symptom=_PROMOTION,
            versions=f"PaddleSeg 2.8.0 on Paddle 3: {model}",
            since_paddle=3,
        )
        for place, model in (
            ("sfnet:AlignedModule", "SFNet"),
            ("decoupled_segnet:SqueezeBodyEdge", "DecoupledSegNet"),
        )
    ),
    SourceFix(
        "paddleseg.models.pointrend:PointHead.get_points_test",
        faulty="paddle.concat([height * width, num_points])",
        cure="paddle.concat([(height * width).reshape([1]).astype('int64'), "
        "num_points.reshape([1]).astype('int64')])",
        symptom="ValueError: (InvalidArgument) The data_type of input tensor in list isn't "
        "consistent, or The axis is expected to be in range of [0, 0)",
        versions="PaddleSeg 2.8.0: evaluation and prediction with PointRend",
    ),
    SourceFix(
        f"{_LOSSES}.lovasz_loss:LovaszSoftmaxLoss.forward",
        faulty="lovasz_softmax_flat(vprobas, vlabels, classes=self.classes)",
        cure="lovasz_softmax_flat(vprobas, vlabels, classes=self.classes) if vlabels.size else "
        "probas.sum() * 0.0",
        symptom="if every pixel is ignored, the loss has the shape [0, C], and the run ends with "
        "one of several errors",
        versions="every PaddleSeg: LovaszSoftmaxLoss",
    ),
    SourceFix(
        f"{_LOSSES}.lovasz_loss:LovaszHingeLoss.forward",
        faulty="lovasz_hinge_flat(*flatten_binary_scores(logits, labels, self.ignore_index))",
        cure="lovasz_hinge_flat(*flatten_binary_scores(logits, labels, self.ignore_index)) "
        "if bool((labels != self.ignore_index).any()) else logits.sum() * 0.0",
        symptom="ValueError: (InvalidArgument) Tensor need be reduced must not empty, if every "
        "pixel is ignored",
        versions="every PaddleSeg on Paddle 2: LovaszHingeLoss",
    ),
    SourceFix(
        f"{_LOSSES}.dice_loss:DiceLoss.forward",
        faulty="labels[labels == self.ignore_index] = 0",
        cure="labels = labels * (labels != self.ignore_index).astype(labels.dtype)",
        symptom="ignored pixels become background for all following losses; on Paddle 3 also "
        "RuntimeError: (PermissionDenied) ... has been modified by an inplace operation",
        versions="every PaddleSeg on every Paddle",
    ),
    SourceFix(
        "paddleseg.core.val:evaluate",
        faulty="logits.numpy()",
        cure="logits.transpose([0, 2, 3, 1]).reshape([-1, logits.shape[1], 1, 1]).numpy()"
        "[label.numpy().reshape([-1]) != eval_dataset.ignore_index]",
        symptom="--auc_roc: ValueError: all the input array dimensions ... must match exactly, for "
        "images of different sizes; RuntimeError: labels with ignore_index is not supported yet",
        versions="every PaddleSeg",
    ),
    SourceFix(
        "paddleseg.core.val:evaluate",
        faulty="label.numpy()",
        cure="label.numpy()[label.numpy() != eval_dataset.ignore_index].reshape([-1, 1, 1, 1])",
        symptom="the same",
        versions="every PaddleSeg",
    ),
    SourceFix(
        "paddleseg.core.predict:predict",
        faulty="paddle.squeeze(pred)",
        cure="paddle.squeeze(pred, axis=[axis for axis in (0, 1) if pred.shape[axis] == 1])",
        symptom="images with a side of 1 pixel: IndexError: tuple index out of range",
        versions="every PaddleSeg",
    ),
    SourceFix(
        "paddleseg.core.predict:predict",
        faulty="cv2.imwrite(added_image_path, added_image)",
        cure="cv2.imwrite(os.path.splitext(added_image_path)[0] + '.ppm' if "
        "added_image_path.lower().endswith('.pgm') else added_image_path, added_image)",
        symptom="images of the format PGM, which has no colours: their overlays are missing, "
        "without a word",
        versions="every PaddleSeg",
    ),
    SourceFix(
        "paddleseg.utils.logger:log",
        faulty=r"'{} [{}]\t{}'.format(current_time, levels[level], message).encode('utf-8')"
        ".decode('latin1')",
        cure=r"'{} [{}]\t{}'.format(current_time, levels[level], message)"
        ".encode(sys.stdout.encoding or 'utf-8', 'replace').decode(sys.stdout.encoding or 'utf-8')",
        symptom="names and paths in Chinese are unreadable in the log",
        versions="PaddleSeg 2.8.0",
    ),
    SourceFix(
        "paddleseg.utils.train_profiler:add_profiler_step",
        faulty="paddle.utils.profiler.start_profiler(_profiler_options['state'], "
        "_profiler_options['tracer_option'])",
        cure="_profiler_options._options.update(profiler=paddle.profiler.Profiler("
        "on_trace_ready=lambda _: None)) or _profiler_options['profiler'].start()",
        symptom="--profiler_options: AttributeError: module 'paddle.utils' has no attribute "
        "'profiler'",
        versions="PaddleSeg 2.8.0",
    ),
    SourceFix(
        "paddleseg.utils.train_profiler:add_profiler_step",
        faulty="paddle.utils.profiler.stop_profiler(_profiler_options['sorted_key'], "
        "_profiler_options['profile_path'])",
        cure="(lambda profiler: (profiler.stop(), profiler.summary(), profiler.export("
        "_profiler_options['profile_path'])))(_profiler_options['profiler'])",
        symptom="the same",
        versions="PaddleSeg 2.8.0",
    ),
    SourceFix(
        "paddleseg.core.train:train",
        faulty="l[0] / log_iters",
        cure="float(l) / log_iters",
        symptom="IndexError: too many indices for array, at the first log line",
        versions="PaddleSeg 2.8.0 with the 0-D tensors of Paddle 2.5 and later",
    ),
    SourceFix(
        "paddleseg.core.train:train",
        faulty="paddle.flops",
        cure='__import__("paddleseg_autoloss.compat").compat.count_operations',
        symptom="TypeError: only 0-dimensional arrays can be converted to Python scalars, when all "
        "iterations are done; the count is only printed, but all later work of the run is lost",
        versions="Paddle 3.3.1 with NumPy 2.4 and later: every run",
    ),
    SourceFix(
        "paddleseg.utils.metrics:calculate_area",
        faulty="paddle.concat",
        cure="paddle.stack",
        symptom="ValueError: (InvalidArgument) The axis is expected to be in range of [0, 0)",
        versions="PaddleSeg 2.8.0 with the 0-D tensors of Paddle 2.5 and later",
    ),
)


class _Replacer(ast.NodeTransformer):
    """Replaces the faults of ``fixes`` by their cures; ``found`` collects the applied fixes."""

    def __init__(self, fixes: Iterable[SourceFix]) -> None:
        nodes = [(_node(fix.faulty), fix) for fix in fixes]
        self.kinds = {type(node) for node, _ in nodes}
        self.fixes = {ast.dump(node): fix for node, fix in nodes}
        self.found: list[SourceFix] = []

    def visit(self, node: ast.AST) -> ast.AST:
        # A dump takes long, and most nodes are of another kind.
        fix = self.fixes.get(ast.dump(node)) if type(node) in self.kinds else None
        if fix is None:
            return self.generic_visit(node)
        if fix not in self.found:
            self.found.append(fix)
        return ast.copy_location(_node(fix.cure), node)


def _node(source: str) -> ast.AST:
    statement = ast.parse(source).body[0]
    return statement.value if isinstance(statement, ast.Expr) else statement


def apply_source_fixes(target: str, fixes: Iterable[SourceFix]) -> list[SourceFix]:
    """Apply those ``fixes`` whose fault is in the function ``target``, and return them.

    Only the code of the function object is replaced.  So the cure also works for modules that
    imported the function earlier, and tracebacks still point into PaddleSeg's file.  A function
    that the installed PaddleSeg does not have needs no cure.
    """
    module_name, qualified_name = target.split(":")
    module = importlib.import_module(module_name)
    if not hasattr(module, qualified_name.partition(".")[0]):
        return []
    function: FunctionType = attrgetter(qualified_name)(module)
    lines, first_line = inspect.getsourcelines(function)
    replacer = _Replacer(fixes)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    replacer.visit(tree)
    if replacer.found:
        ast.fix_missing_locations(tree)
        ast.increment_lineno(tree, first_line - 1)
        module_code = compile(tree, inspect.getsourcefile(function) or module_name, "exec")
        function.__code__ = next(c for c in module_code.co_consts if isinstance(c, CodeType))
    return replacer.found


def _apply_all() -> list[SourceFix]:
    due: dict[str, list[SourceFix]] = {}
    for fix in SOURCE_FIXES:
        if fix.since_paddle <= _PADDLE_MAJOR:
            due.setdefault(fix.target, []).append(fix)
    return [fix for target, fixes in due.items() for fix in apply_source_fixes(target, fixes)]


#: The fixes that this installation needed.
APPLIED_FIXES = _apply_all()


def count_operations(*args: Any, **kwargs: Any) -> int | None:
    """Return the result of ``paddle.flops``; if it fails, log the reason and return None.

    PaddleSeg's loop calls it after the last iteration, only to print the number.

    Args:
        *args: positional arguments of ``paddle.flops``.
        **kwargs: keyword arguments of ``paddle.flops``.
    """
    try:
        return paddle.flops(*args, **kwargs)
    except Exception as error:
        logger.warning(f"The operations of the network could not be counted: {error!r}")
        return None


def create_accumulators(optimizer: paddle.optimizer.Optimizer, parameters: list[Tensor]) -> None:
    """Let ``optimizer`` create its state for ``parameters`` now and not at its first step.

    Paddle 2.6 creates a helper object for this only in a step, and fails an assertion without it.
    """
    if optimizer.helper is None:
        optimizer.helper = LayerHelper(type(optimizer).__name__)
    block = paddle.static.default_main_program().global_block()
    optimizer._create_accumulators(block, parameters)


def found_overflow(optimizer: paddle.optimizer.Optimizer) -> bool:
    """Whether a gradient scaler found an overflow, and told ``optimizer`` to skip the step."""
    return bool(optimizer._get_auxiliary_var("found_inf"))


@contextmanager
def quiet() -> Iterator[None]:
    """Let nothing be shown but PaddleSeg's warnings and errors: no other line, no progress bar."""
    stock, bar = getattr(logger, "logger", None), progbar.Progbar
    no_bar = replaced(progbar, "Progbar", lambda target, **_: bar(target, verbose=0))
    with redirect_stdout(_OnlyWarnings(sys.stdout)), no_bar, _no_tqdm():
        if stock is None:
            yield
            return
        # PaddleSeg after 2.9 logs by the standard library, to the stream that it found first.
        level = stock.level
        stock.setLevel("WARNING")
        try:
            yield
        finally:
            stock.setLevel(level)


@contextmanager
def _no_tqdm() -> Iterator[None]:
    stock = tqdm.__init__
    tqdm.__init__ = partialmethod(stock, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = stock


class _OnlyWarnings(io.TextIOBase):
    """Passes on the lines of PaddleSeg's logger that are warnings or errors.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a line, or leave it."""
        if "[WARNING]" in text or "[ERROR]" in text:
            self._stream.write(f"{text}\n")
            self._stream.flush()
        return len(text)
