"""What tests of several folders share; no test file imports from another one."""

from support.configs import at
from support.processes import ROOT, SCRIPT_HEAD, call, run_tool
from support.training import Squares, TinyNet, adam, ce_and_dice, enough_losses, run_training

__all__ = [
    "ROOT",
    "SCRIPT_HEAD",
    "Squares",
    "TinyNet",
    "adam",
    "at",
    "call",
    "ce_and_dice",
    "enough_losses",
    "run_tool",
    "run_training",
]
