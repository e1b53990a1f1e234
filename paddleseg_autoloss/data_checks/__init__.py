"""Checks of the data before training (list files, images, labels), and clear errors of readers."""

from paddleseg_autoloss.data_checks.examination import check_data, check_files
from paddleseg_autoloss.data_checks.files import build_dataset
from paddleseg_autoloss.data_checks.readers import reader_errors
from paddleseg_autoloss.data_checks.samples import read_batch

__all__ = ["build_dataset", "check_data", "check_files", "read_batch", "reader_errors"]
