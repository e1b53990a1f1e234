"""What can be said about a data set before it is trained on."""

from paddleseg_autoloss.data_checks.files import build_dataset, check_files

__all__ = ["build_dataset", "check_files"]
