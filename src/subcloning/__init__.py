"""Weight subcloning (arXiv 2312.09299): a small transformer initialised from a larger pretrained one of its family."""

from . import families  # noqa: F401  (registers the model families)
from .axes import Family, Probe, SubcloningError, register
from .child import subclone
from .plan import Plan, make_plan
from .scores import Scores
from .scoring import score
from .surgery import apply_plan, permute
from .verification import verify

__all__ = [
    "Family",
    "Plan",
    "Probe",
    "Scores",
    "SubcloningError",
    "apply_plan",
    "make_plan",
    "permute",
    "register",
    "score",
    "subclone",
    "verify",
]
