"""Weight subcloning (arXiv 2312.09299): a small transformer initialised from a larger pretrained one of its family."""

from .errors import SubcloningError
from .method import families  # noqa: F401  (registers the model families)
from .method.axes import Family, Probe, register
from .method.child import subclone
from .method.models import child_of, save
from .method.plan import Plan, make_plan
from .method.scores import Scores
from .method.scoring import score
from .method.surgery import apply_plan, permute
from .method.verification import verify
from .method.weights import score_weights

__all__ = [
    "Family",
    "Plan",
    "Probe",
    "Scores",
    "SubcloningError",
    "apply_plan",
    "child_of",
    "make_plan",
    "permute",
    "register",
    "save",
    "score",
    "score_weights",
    "subclone",
    "verify",
]
