"""Weight subcloning (arXiv 2312.09299): a small transformer initialised from a larger pretrained one of its family."""

from .errors import SubcloningError
from .method import families  # noqa: F401  (registers the model families)
from .method.axes import Family, Probe, register
from .method.child import subclone
from .method.plan import Plan, make_plan
from .method.scores import Scores
from .method.scoring import score
from .method.surgery import apply_plan, permute
from .method.verification import verify

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
