"""The top-level keys that a config may have, and which program reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paddleseg.utils import logger

from paddleseg_autoloss.errors import ConfigError, did_you_mean

__all__ = ["KEYS", "REQUIRED", "SECTIONS", "check_keys", "check_top_level"]

#: Keys that training requires.
REQUIRED = ("batch_size", "iters", "train_dataset", "optimizer", "lr_scheduler", "loss", "model")
#: Keys whose values are mappings.
SECTIONS = (
    "train_dataset", "val_dataset", "optimizer", "lr_scheduler", "loss", "distill_loss", "model",
    "test_config",
)  # fmt: skip
#: Keys that training reads, in PaddleSeg 2.8, 2.9 and develop, and in this package.
KEYS = frozenset(
    {
        *REQUIRED, *SECTIONS, "to_static_training", "_inherited_",
        "print_mem_info", "log_ranks", "uniform_output_enabled", "pdx_model_name",
        "hpi_config_path",
        "loss_aggregator", "on_nonfinite", "held_out",
    }
)  # fmt: skip
#: Other keys of the configs in PaddleSeg's repository; other tools read them, or no program does.
_OTHER_KEYS = frozenset(
    {
        "learning_rate", "mean", "std", "weight", "export", "test_dataset", "use_ema",
        "save_interval", "log_iters", "num_workers", "seed", "num_classes", "ignore_index",
        "teacher", "student", "slim", "pact_optimizer", "quant",
        "data", "data_root", "ema_decay", "resume_ema", "src_only", "edgeconstrain", "edgepullin",
        "featurepullin", "eval_src", "save_edge", "coase_model", "label_divisor", "postprocessor",
        "runner", "nepochs", "labeled_ratio", "unsupervised_train_dataset", "batch_transforms",
        "optimizer_l", "optimizer_r", "lr_scheduler_l", "lr_scheduler_r",
    }
)  # fmt: skip


def check_top_level(config: dict[str, Any]) -> None:
    """Check the top-level keys of a config, and warn of keys that training does not read.

    Raises:
        ConfigError: a key is unknown, or a key that training requires is missing.
    """
    check_keys("", config, KEYS | _OTHER_KEYS, preferred=KEYS)
    for key in sorted(config.keys() & _OTHER_KEYS):
        logger.warning(f"{key}: training does not read this key of the config")
    for key in REQUIRED:
        if key not in config:
            raise ConfigError(f"{key}: expected this key in the config, found none")


def check_keys(
    prefix: str,
    keys: Iterable[Any],
    known: Iterable[str],
    what: str = "there is no such key",
    preferred: Iterable[str] | None = None,
) -> None:
    """Check that all keys are known.

    Args:
        prefix: the text before the key in the error, including the final dot.
        keys: the keys to check.
        known: all valid keys.
        what: the words of the error for an unknown key.
        preferred: keys that the error may propose; by default all valid keys.

    Raises:
        ConfigError: a key is unknown; the error names the most similar valid key.
    """
    known = frozenset(known)
    for key in keys:
        if key not in known:
            hint = did_you_mean(key, preferred or known)
            if not hint and prefix and key in KEYS:
                hint = f"; {key} is a top-level key"
            raise ConfigError(f"{prefix}{key}: {what}{hint}")
