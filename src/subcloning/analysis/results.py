"""Claims against what was measured: experiments/RESULTS.md, from committed files alone."""

import pandas as pd

from .claims import BEYOND, CLAIMS, NOT_YET_RUN, Claim
from .evidence import Evidence
from .tables import markdown
from .text import chance_text
from .verdicts import NOT, REPRODUCED


def results(evidence: list[Evidence], claims: tuple[Claim, ...] = CLAIMS) -> str:
    """What RESULTS.md says of all claims. What the paper does not claim is not reproduced or not, but true or not."""
    words = {REPRODUCED: "yes", NOT: "no"} if claims is BEYOND else {}
    sections, overview, intervals = [], [], 0
    for claim in claims:
        found = [claim.find(e) for e in evidence]
        verdicts = [words.get(finding.verdict, finding.verdict) if finding else "-" for finding in found]
        overview.append((claim.text, *verdicts))
        rows = []
        for e, finding, verdict in zip(evidence, found, verdicts, strict=True):
            if finding:
                rows.append((f"[{e.study.label}]({e.study.name})", finding.ours, finding.seeds, verdict))
                intervals += finding.intervals
        sections.append(
            f"## {claim.text}\n\n{claim.figure}; [figures]({claim.folder}). The paper: {claim.paper}.\n\n"
            f"{markdown(pd.DataFrame(rows, columns=['study', 'ours', 'seeds', 'verdict']))}\n"
            f"Rule: {claim.rule}\n"
        )
    table = markdown(pd.DataFrame(overview, columns=["claim", *(e.study.label for e in evidence)]))
    return "\n".join([table, f"These verdicts rest on {chance_text(intervals)}\n", *sections])


def not_yet_run() -> str:
    rows = [(scale, f"`{command}`", figures) for scale, command, figures in NOT_YET_RUN]
    return markdown(pd.DataFrame(rows, columns=["scale", "command", "for"]))
