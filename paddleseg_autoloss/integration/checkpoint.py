"""Checkpoints: each is written completely or not at all, and is checked before a run resumes it."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddleseg.utils import logger

from paddleseg_autoloss.errors import CheckpointError, ConfigError, OutputError
from paddleseg_autoloss.files import replace_file
from paddleseg_autoloss.integration.proof import (
    PROOF,
    check_iteration,
    check_proof,
    has_proof,
    iteration_of,
    time_of,
    write_proof,
)
from paddleseg_autoloss.tensor_files import read_tensor_file

__all__ = [
    "CheckpointWriter",
    "check_writable",
    "checkpoint_iteration",
    "fault_of",
    "latest_checkpoint",
    "load_with_check",
    "newest_good_checkpoint",
    "non_finite",
    "whole_checkpoints",
]

#: The files of the network, and of the optimizer and the losses, in the order in which PaddleSeg's
#: loop writes them.
_FILES = _NETWORK, _STATE = "model.pdparams", "model.pdopt"


class CheckpointWriter:
    """Writes the checkpoints of one run, and deletes the oldest.

    A file is written completely or not at all.  The proof is written before ``model.pdopt``.  So a
    checkpoint is either incomplete or has a proof, whenever the process is killed.

    Args:
        save_dir: folder of the run.
        keep: number of checkpoints to keep, including those from before a resume; 0 keeps all.
    """

    def __init__(self, save_dir: str | Path, keep: int = 0) -> None:
        self.save_dir = Path(save_dir)
        self.keep = keep
        self._own: set[Path] = set()

    def save(
        self, save: Callable[..., None], obj: Any, path: str, *args: Any, **kwargs: Any
    ) -> None:
        """Call ``save(obj, path)``; if the process is killed, the previous file stays intact.

        Raises:
            CheckpointError: the file cannot be written, for example because the disk is full.
        """
        if not isinstance(path, (str, os.PathLike)):
            save(obj, path, *args, **kwargs)
            return
        file, iteration = Path(path), iteration_of(Path(path).parent)
        try:
            if file.name == _NETWORK:
                # Files that an older run left in this folder must not become part of this
                # checkpoint.
                (file.parent / _STATE).unlink(missing_ok=True)
                (file.parent / PROOF).unlink(missing_ok=True)
            with replace_file(file) as part:
                save(obj, str(part), *args, **kwargs)
                if file.name == _STATE and iteration is not None:
                    network = file.parent / _NETWORK
                    write_proof(file.parent, iteration, {_NETWORK: network, _STATE: part})
            if file.name == _NETWORK and iteration is None:
                # The best model has no other file.  After a kill in between it has no proof.
                write_proof(file.parent, None, {_NETWORK: file})
        except OutputError as error:
            raise CheckpointError(f"save_dir: {error}") from error
        except OSError as error:
            raise CheckpointError(f"save_dir: cannot write {path}: {error.strerror}") from error
        if file.name == _STATE:
            self._own.add(file.parent)
            # PaddleSeg deletes those of this run by itself.
            self.delete_oldest(spared=self._own)

    def delete_oldest(self, spared: Collection[Path] = ()) -> None:
        """Delete the oldest checkpoints if there are more than `keep`.

        Args:
            spared: folders to leave alone.
        """
        there = _checkpoint_folders(self.save_dir)
        others = [folder for folder in there if folder not in spared]
        if self.keep > 0:
            for folder in others[: max(0, len(there) - self.keep)]:
                shutil.rmtree(folder, ignore_errors=True)


def check_writable(save_dir: str | Path) -> None:
    """Create the folder of a run, and check that files can be written there.

    Raises:
        ConfigError: the folder cannot be created or written to.
    """
    try:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=save_dir):
            pass
    except OSError as error:
        raise ConfigError(f"save_dir: cannot write to {save_dir}: {error.strerror}") from error


def load_with_check(model: nn.Layer) -> Callable[[dict[str, Tensor]], Any]:
    """Return a stand-in for the model's ``set_state_dict`` that checks the state first.

    Paddle's own method silently skips tensors that do not fit.  The stand-in raises CheckpointError
    if the state belongs to another network.
    """
    stock = model.set_state_dict

    def set_state_dict(state: dict[str, Tensor]) -> Any:
        for name, own in model.state_dict().items():
            found = state.get(name)
            if found is None or list(found.shape) != list(own.shape):
                what = "nothing" if found is None else f"shape {list(found.shape)}"
                raise CheckpointError(
                    f"--resume_model: the checkpoint is of another network: expected {name} of "
                    f"shape {list(own.shape)}, found {what}"
                )
        return stock(state)

    return set_state_dict


def latest_checkpoint(save_dir: str | Path) -> str:
    """Return the folder of the newest usable checkpoint of a run.

    Raises:
        CheckpointError: the run has no usable checkpoint.
    """
    good = newest_good_checkpoint(save_dir)
    if good is None:
        newest = _checkpoint_folders(Path(save_dir))[-1:]
        reasons = [f"{folder}: {fault_of(folder)}" for folder in newest]
        nothing = f"--resume_model: there is no whole checkpoint in {save_dir}"
        raise CheckpointError("; ".join([nothing, *reasons]))
    return str(good)


def newest_good_checkpoint(save_dir: str | Path, since: float = 0.0) -> Path | None:
    """Return the folder of the newest checkpoint that can be resumed, or None.

    The log names each newer checkpoint that cannot be resumed, with the reason.

    Args:
        save_dir: folder of the run.
        since: in seconds since 1970; checkpoints from before are those of another run.
    """
    folders = [one for one in _checkpoint_folders(Path(save_dir)) if time_of(one) >= since]
    for folder in reversed(folders):
        fault = fault_of(folder)
        if fault is None:
            return folder
        logger.warning(f"The checkpoint {folder} is not used: {fault}")
    return None


def fault_of(folder: Path) -> str | None:
    """Return the reason why a checkpoint cannot be resumed, or None if it can.

    If it has a proof, the checksums are compared.  If it has none, its tensors are read and checked
    for NaN and infinity.
    """
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        return f"{' and '.join(missing)} missing"
    stamps = [(folder / name).stat() for name in _FILES]
    return _fault(folder, tuple((stamp.st_mtime_ns, stamp.st_size) for stamp in stamps))


@functools.lru_cache(maxsize=16)
def _fault(folder: Path, stamps: tuple[tuple[int, int], ...]) -> str | None:
    """Return the fault of a checkpoint's files; the answer is cached until a file changes."""
    try:
        check_iteration(folder)
        for name in _FILES:
            check_proof(folder / name)
            if not has_proof(folder):
                broken = _non_finite_array(read_tensor_file(folder / name))
                if broken is not None:
                    return f"{broken} in {name} is NaN or infinite"
    except CheckpointError as error:
        return str(error)
    return None


def _non_finite_array(content: Any) -> str | None:
    for name, value in _tensors_of(content):
        array = value[1] if isinstance(value, tuple) and len(value) == 2 else value
        if isinstance(array, np.ndarray) and not _is_finite(array):
            return name
    return None


def _is_finite(array: np.ndarray) -> bool:
    if array.dtype == np.uint16:
        # These are the bits of bfloat16 numbers; the exponent of NaN and infinity is all ones.
        return not ((array & 0x7F80) == 0x7F80).any()
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def _tensors_of(state: Any) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of a state dict, except the stored state of losses, which may be NaN."""
    for name, value in state.items() if isinstance(state, dict) else ():
        yield from _tensors_of(value) if name == "master_weights" else [(name, value)]


def non_finite(state: Any) -> str | None:
    """Return the name of a tensor in a state dict that holds a NaN or an infinity, or None."""
    for name, value in _tensors_of(state):
        is_float = isinstance(value, Tensor) and value.is_floating_point()
        if is_float and not bool(paddle.isfinite(value).all()):
            return name
    return None


def checkpoint_iteration(folder: str) -> int:
    """Return the iteration of a checkpoint folder after checking that it can be resumed.

    Raises:
        CheckpointError: the folder does not exist or lacks a file, or its name does not end with
            the iteration.
    """
    path = Path(folder)
    if not path.is_dir():
        raise CheckpointError(f"--resume_model: {folder} is not a folder{_alternatives(path)}")
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise CheckpointError(
            f"--resume_model: {folder} is incomplete, {' and '.join(missing)} missing"
            f"{_alternatives(path)}"
        )
    iteration = iteration_of(folder)
    if iteration is None:
        raise CheckpointError(
            f"--resume_model: expected a folder named iter_N, N being its iteration, found {folder}"
        )
    try:
        check_iteration(path)
    except CheckpointError as error:
        raise CheckpointError(f"--resume_model: {error}") from error
    return iteration


def whole_checkpoints(save_dir: str | Path) -> list[Path]:
    """List the complete checkpoints in ``save_dir``, the one that was written last at the end."""
    return list(filter(_is_whole, _checkpoint_folders(Path(save_dir))))


def _checkpoint_folders(save_dir: Path) -> list[Path]:
    there = [path for path in save_dir.glob("iter_*") if path.name[5:].isdecimal()]
    folders = [path for path in there if path.is_dir()]
    # A new run in the folder of an older one may have fewer iterations.  Only the times of proofs
    # are right in a copy, so they are not mixed with those of files.
    has_time = all(has_proof(folder) for folder in folders if _is_whole(folder))
    times = {folder: (time_of if has_time else _time_of_files)(folder) for folder in folders}
    return sorted(folders, key=lambda path: (times[path], int(path.name[5:])))


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _FILES)


def _time_of_files(folder: Path) -> float:
    files = [folder / name for name in _FILES]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def _alternatives(folder: Path) -> str:
    whole = whole_checkpoints(folder.parent)
    return f"; the newest whole checkpoint there is {whole[-1]}" if whole else ""
