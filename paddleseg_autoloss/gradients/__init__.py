"""The gradient of each loss, their Gramian, and their injection into ``backward``."""

from paddleseg_autoloss.gradients.injection import inject
from paddleseg_autoloss.gradients.jacobian import Jacobian
from paddleseg_autoloss.gradients.substeps import Substeps

__all__ = ["Jacobian", "Substeps", "inject"]
