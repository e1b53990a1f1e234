"""Reading and checking configs before anything is built from them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from paddleseg.cvlibs import Config

from paddleseg_autoloss.errors import AutoLossError, ConfigError, did_you_mean, root_cause
from paddleseg_autoloss.integration.config_checks import check_config, check_opt
from paddleseg_autoloss.integration.config_files import ConfigFiles
from paddleseg_autoloss.integration.config_keys import KEYS

__all__ = ["find_config", "load_config", "read_config"]

_IN_PYTHON = {"true": "True", "false": "False", "null": "None"}
#: A text in quotes, which stays as it is, or a word of YAML.
_WORDS = re.compile("'[^']*'|\"[^\"]*\"|" + r"\b(?:" + "|".join(_IN_PYTHON) + r")\b")


def find_config(name: str | None, config_dir: Path, key: str = "--config") -> str:
    """Return the path of a config; a file name without a folder is also searched in ``config_dir``.

    Args:
        name: the path or the file name.
        config_dir: the folder.
        key: the flag or the key that names it, for an error.

    Raises:
        ConfigError: there is no such file; the error names the most similar one in ``config_dir``.
    """
    if not name:
        raise ConfigError(f"{key}: expected the path of a config file, found nothing")
    for path in (Path(name), config_dir / name):
        if path.is_file():
            return str(path)
    paths = [path.relative_to(config_dir) for path in config_dir.rglob("*.yml")]
    known = [path.as_posix() for path in paths if "_base_" not in path.parts]
    raise ConfigError(f"{key}: {name} was not found{did_you_mean(Path(name).name, known)}")


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a config and of the files that it is based on.

    A top-level key that only defines a YAML anchor is left out; the places that use the anchor
    contain its value.

    Raises:
        ConfigError: a file cannot be read, see `ConfigFiles`.
    """
    files = ConfigFiles()
    config = files.read(Path(path))
    return {k: v for k, v in config.items() if k in KEYS or k not in files.definitions}


def load_config(path: str, **overrides: Any) -> Config:
    """Read a PaddleSeg config, and check everything that can be checked without building it.

    Args:
        path: the file.
        **overrides: ``learning_rate``, ``batch_size``, ``iters`` and ``opts``, with the meaning
            that they have for PaddleSeg's ``Config``.

    Raises:
        ConfigError: a file cannot be read, a key, a component or one of its arguments does not
            exist, or PaddleSeg refuses the config.
    """
    try:
        return _CheckedConfig(path, **overrides)
    except AutoLossError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: {root_cause(error)}") from error


class _CheckedConfig(Config):
    """PaddleSeg's config: read by `read_config`, and checked before PaddleSeg's own checks.

    PaddleSeg itself never reads the file, so both always see the same content.
    """

    def _parse_from_yaml(self, path: str) -> dict[str, Any]:
        return read_config(path)

    def update_config_dict(
        self, dic: dict[str, Any], opts: Sequence[str] | None = None, **overrides: Any
    ) -> dict[str, Any]:
        if overrides.get("learning_rate") and not isinstance(dic.get("lr_scheduler"), dict):
            raise ConfigError("lr_scheduler: expected this key in the config, found none")
        dic = super().update_config_dict(dic, **overrides)
        for opt in opts or ():
            check_opt(dic, opt)
            dic = super().update_config_dict(dic, opts=[_as_python(opt)])
        check_config(dic)
        return dic


def _as_python(opt: str) -> str:
    """Return an entry of ``--opts`` in Python's words: PaddleSeg takes those of YAML for text."""
    key, _, value = opt.partition("=")
    translated = _WORDS.sub(lambda found: _IN_PYTHON.get(found[0], found[0]), value)
    with suppress(SyntaxError, ValueError):
        ast.literal_eval(translated)
        return f"{key}={translated}"
    return opt
