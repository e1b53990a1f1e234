"""Protection against untrusted configs.

Such a config can neither run code nor write outside of PaddleSeg's folders.

``docs/safety.md`` says what such a config still can do.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from paddle import nn
from paddleseg.models.backbones import cae, vision_transformer
from paddleseg.utils import download, seg_env, utils

from paddleseg_autoloss.errors import ConfigError, shown
from paddleseg_autoloss.seams import replace

__all__ = ["check_archive", "install_safety", "layer_named"]

_stock_uncompress = download._uncompress_file
_stock_download = utils.download_pretrained_model


def install_safety() -> None:
    """Replace unsafe functions of PaddleSeg by the functions of this module."""
    for module in (cae, vision_transformer):
        replace(module, "eval", layer_named)
    replace(download, "_uncompress_file", _uncompress)
    replace(utils, "download_pretrained_model", _download)


def layer_named(expression: str) -> type[nn.Layer]:
    """Return the layer of ``paddle.nn`` that a config names; PaddleSeg would run the text as code.

    Args:
        expression: the name, for example ``nn.LayerNorm``.

    Raises:
        ConfigError: the text is not the name of a layer.

    Examples:
        >>> layer_named("nn.LayerNorm").__name__
        'LayerNorm'
    """
    prefix, _, name = str(expression).partition("nn.")
    layer = getattr(nn, name, None) if name.isidentifier() and not prefix else None
    if not (isinstance(layer, type) and issubclass(layer, nn.Layer)):
        raise ConfigError(
            f"norm_layer: expected a layer of paddle.nn, such as nn.LayerNorm, found "
            f"{shown(expression)}"
        )
    return layer


def check_archive(path: str | Path) -> None:
    """Check that an archive contains only plain files and folders within its own folder.

    PaddleSeg would unpack everything, and then move the file that the first name points to.

    Args:
        path: a zip file if its name ends in ``zip``, else a tar file.

    Raises:
        ConfigError: it contains something else, or is not an archive.
    """
    try:
        for name, is_plain in _members(str(path)):
            parts = PurePosixPath(name.replace("\\", "/")).parts
            if not is_plain or not parts or ".." in parts or parts[0] == "/":
                raise ConfigError(
                    f"{Path(path).name}: expected an archive of plain files and folders within "
                    f"it, found {shown(name)}; nothing was unpacked"
                )
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{Path(path).name}: it is not an archive, or is incomplete") from error


def _members(path: str) -> Iterator[tuple[str, bool]]:
    """Yield each name in an archive, and whether it is a plain file or folder."""
    if path.endswith("zip"):
        with zipfile.ZipFile(path) as archive:
            yield from ((name, True) for name in archive.namelist())
    else:
        with tarfile.open(path, "r:*") as archive:
            yield from ((member.name, member.isfile() or member.isdir()) for member in archive)


def _uncompress(filepath: str, *args: Any, **kwargs: Any) -> str:
    check_archive(filepath)
    return _stock_uncompress(filepath, *args, **kwargs)


def _download(pretrained_model: str) -> str:
    """Download weights into PaddleSeg's folder for weights, and into no other folder."""
    parts = unquote(pretrained_model).split("/")
    if ".." in parts or parts[-1] in ("", "."):
        raise ConfigError(
            f"pretrained: expected the address of a file, without .., found "
            f"{shown(pretrained_model)}"
        )
    before = set(_locks())
    try:
        return _stock_download(pretrained_model)
    except BaseException:
        # Other cards wait while the lock file exists.
        for lock in set(_locks()) - before:
            lock.unlink(missing_ok=True)
        raise


def _locks() -> Iterator[Path]:
    return Path(seg_env.PRETRAINED_MODEL_HOME).glob("*.download.lock")
