"""A small checkpoint from a big one, with its important units kept.

    subclone PARENT OUT --width 0.5 --depth 6 --calibration text.txt    a child that its library loads by itself
    subclone PARENT OUT --width 0.5 --dry-run                           its shape and cost, without any weights
    subclone inspect OUT                                                what was kept
    subclone verify PARENT --calibration text.txt                       whether the parent is as its family's table says
    subclone score PARENT scores.safetensors --calibration text.txt     scores, once for children of many shapes

PARENT is a folder that transformers or timm has saved, a run of subcloning.train, a timm name, or a name on the Hub.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..errors import SubcloningError
from ..files import atomic
from ..method.anatomy import Anatomy
from ..method.axes import family_of
from ..method.matching import SCORED, SELECTIONS
from ..method.models import PLAN, shape_of
from ..method.plan import Plan, make_plan
from ..method.refit import refit
from ..method.scores import Scores
from ..method.scoring import score
from ..method.shards import Shards, write_child
from ..method.surgery import apply_plan
from ..method.verification import verify
from ..method.weights import score_weights
from .calibration import batches
from .parents import Checkpoint, find
from .report import card, comparison


def build(checkpoint: Checkpoint, out: Path, args: argparse.Namespace, command: str) -> None:
    """Write the child of `checkpoint` to the folder `out`, whole or not at all."""
    if out.exists():
        raise SubcloningError(f"{out} exists: choose a folder that does not")
    big, thin = checkpoint.empty(), args.head_size is not None
    given = {"width": args.width, "heads": args.heads, "hidden": args.hidden, "head_size": args.head_size}
    shape = shape_of(big, **given, **args.depth)
    with torch.device("meta"):
        empty = checkpoint.child(shape)
    # Shapes that do not fit are found before anything is downloaded.
    make_plan(big, empty, select="first", thin_heads=thin)
    print(comparison(big, empty, shape))
    if args.dry_run:
        return
    _check_scores(args)
    _check_room(out, empty)
    if args.stream:
        p, child = Shards(checkpoint.folder()).anatomy(big), empty
    else:
        p, child = Anatomy(checkpoint.trained()), checkpoint.child(shape)
    parent = p.model
    data = batches(checkpoint, parent, args.calibration, args.samples) if args.calibration else None
    checked = "not verified: no data"
    if data:
        checked = check(p, data[0])
        print(checked)
    scores: Scores | None = None
    if args.scores == "weights":
        scores = score_weights(p)
    elif args.scores != "activations":
        scores = Scores.load(args.scores)
    elif data:
        scores = score(p, reported(data, "scored"), stream=args.select == "principal")
    plan = make_plan(p, child, scores, select=args.select, blocks=args.blocks, thin_heads=thin)
    if not args.stream:
        apply_plan(plan, p, child, scale=args.scale)
    if args.refit and data:
        refit(plan, p, child, reported(data, "re-fitted"))
    print(plan)
    with atomic(out) as folder:
        checkpoint.save(child, folder)
        if args.stream:
            for done, count in write_child(plan, p, Anatomy(child), folder, scale=args.scale):
                print(f"\rwrote {done} of {count} tensors", end="", file=sys.stderr, flush=True)
            print(file=sys.stderr)
        plan.save(folder / PLAN)
        facts = {"units were scored on": _scored_on(args), "table of the family": checked, "made by": f"`{command}`"}
        (folder / "README.md").write_text(card(out.name, checkpoint, parent, child, plan, facts))
    print(f"{out}: {checkpoint.loading(out)}")
    if args.push_to_hub:
        push(out, args.push_to_hub)


def _check_scores(args: argparse.Namespace) -> None:
    if args.stream and (args.calibration or args.refit):
        raise SubcloningError(
            "--stream never has the parent in memory, which --calibration and --refit need: score it where it fits "
            "(`subclone score`), and give --scores FILE"
        )
    if args.scores == "weights" and (args.select == "principal" or args.blocks == "least"):
        what = "--blocks least" if args.blocks == "least" else "--select principal"
        raise SubcloningError(f"--scores weights does not tell what {what} needs: give --calibration instead")
    scored = args.select in SCORED or args.blocks == "least"
    if scored and args.scores == "activations" and not args.calibration:
        raise SubcloningError(
            f"--select {args.select} needs data to score units by: --calibration text.txt, a folder of text or images, "
            "or a set of `datasets`; without any, --scores weights or a file of scores, or --select uniform"
        )
    if args.refit and not args.calibration:
        raise SubcloningError("--refit needs --calibration")


def _check_room(out: Path, child: torch.nn.Module) -> None:
    """Raise unless `out` fits on its disk: before the weights are read."""
    folder = next(folder for folder in out.absolute().parents if folder.exists())
    needed, free = (sum(p.nbytes for p in child.parameters()), shutil.disk_usage(folder).free)
    if needed > free:
        raise SubcloningError(f"{out} needs {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f}: make room")


def _scored_on(args: argparse.Namespace) -> str:
    if args.scores == "weights":
        return "the norms of their weights, without data"
    if args.scores != "activations":
        return f"what {Path(args.scores).name} says"
    return f"{args.samples} samples of {Path(args.calibration).name}" if args.calibration else "nothing"


def push(folder: Path, name: str) -> None:
    """Upload the child to the Hub's repository `name`, which is made if it does not exist."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().create_repo(name, exist_ok=True)
        print(HfApi().upload_folder(repo_id=name, folder_path=folder, commit_message="A child by weight subcloning"))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise SubcloningError(f"{folder} is whole, but was not uploaded to {name}: {error}") from error


def check(parent: Anatomy, batch: Any) -> str:
    """Hold the parent against its family's table, on two short samples."""
    few = {"input_ids": batch["input_ids"][:2, :32]} if isinstance(batch, dict) else batch[:2]
    found = verify(parent.model, few, rotate=parent.rotates)
    rotated = "" if found.rotated is None else f", rotated by {found.rotated:.0e}"
    return f"verified: permuting all units moves outputs by {found.permuted:.0e} of their size{rotated}"


def reported(data: list, what: str) -> Iterator[Any]:
    """`data`, and on stderr how far it is."""
    begin = time.perf_counter()
    for done, batch in enumerate(data):
        yield batch
        rate = (done + 1) / (time.perf_counter() - begin)
        print(f"\r{what} {done + 1} of {len(data)} batches, {rate:.2g} a second", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def count(text: str) -> int:
    """A number of things, 1 or more."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def share(text: str) -> float:
    """Of the parent's size, more than 0."""
    if not (number := float(text)) > 0:
        raise ValueError
    return number


def depth(text: str) -> dict[str, float]:
    """`6` blocks, or with a point in it a share of the parent's."""
    return {"depth": share(text)} if "." in text else {"blocks": count(text)}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="subclone", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("parent", metavar="PARENT")
    made.add_argument("out", metavar="OUT", type=Path, help="folder to write, which must not exist")
    made.add_argument("--width", type=share, help="share of the parent's width (default: 1)")
    made.add_argument(
        "--depth", type=depth, default={}, help="blocks, or with a point in it a share of the parent's, as 0.5"
    )
    made.add_argument("--heads", type=count, help="heads, in place of --width; they keep their size")
    made.add_argument("--head-size", type=count, help="of the Llama kinds: heads smaller by a whole factor")
    made.add_argument("--hidden", type=count, help="hidden units of each block (default: as the width)")
    made.add_argument(
        "--select", choices=SELECTIONS, help="which units (default: principal where it can, else importance)"
    )
    made.add_argument("--blocks", default="middle", choices=("middle", "first", "last", "uniform", "least"),
                      help="which blocks a shallower child loses (default: middle)")  # fmt: skip
    made.add_argument(
        "--calibration", metavar="DATA", help="text files, a folder of text or images, or a `datasets` name"
    )
    made.add_argument(
        "--samples", type=count, default=128, help="how much of it: images, or 256 tokens each (default: 128)"
    )
    made.add_argument(
        "--scores", metavar="activations|weights|FILE", default="activations",
        help="what units are scored by: weights need no data, and say less; a FILE of `subclone score`",
    )  # fmt: skip
    made.add_argument("--stream", action="store_true", help="read and write tensor by tensor: for parents that do not "
                      "fit in memory")  # fmt: skip
    made.add_argument("--refit", action="store_true", help="layers make up for inputs that they lost")
    made.add_argument("--no-scale", dest="scale", action="store_false", help="without the factors of paper section 4.3")
    made.add_argument("--revision", help="commit, branch or tag on the Hub")
    made.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload the child, too")
    made.add_argument("--dry-run", action="store_true", help="say what would be made, without weights or data")
    return made


def score_parent(arguments: list[str]) -> None:
    small = argparse.ArgumentParser(
        prog="subclone score", description="Score a parent once, for children of any shape."
    )
    small.add_argument("parent", metavar="PARENT")
    small.add_argument("file", metavar="FILE", type=Path, help="a .safetensors file, which must not exist")
    small.add_argument("--calibration", metavar="DATA", required=True)
    small.add_argument("--samples", type=count, default=128)
    small.add_argument("--device-map", help="auto: over all devices, by accelerate (default: in this machine's memory)")
    small.add_argument("--revision")
    args = small.parse_args(arguments)
    if args.file.exists():
        raise SubcloningError(f"{args.file} exists: choose a file that does not")
    checkpoint = find(args.parent, args.revision)
    family_of(checkpoint.empty())  # unknown ones are refused before anything is downloaded
    parent = Anatomy(checkpoint.trained(args.device_map))
    data = batches(checkpoint, parent.model, args.calibration, args.samples)
    scores = score(parent, reported(data, "scored"), stream=parent.rotates)
    if not scores.parent:  # some of its weights are offloaded
        scores = replace(scores, parent=Shards(checkpoint.folder()).anatomy(checkpoint.empty()).fingerprint)
    scores.save(args.file)
    print(f"{args.file}: subclone {args.parent} OUT --scores {args.file} ...")


def inspect(arguments: list[str]) -> None:
    small = argparse.ArgumentParser(prog="subclone inspect", description="Print a plan: what a child keeps.")
    small.add_argument("place", type=Path, help="a folder that subclone made, or a plan")
    place = small.parse_args(arguments).place
    print(Plan.load(place / PLAN if place.is_dir() else place))


def verify_parent(arguments: list[str]) -> None:
    small = argparse.ArgumentParser(prog="subclone verify", description="Is a parent as its family's table says?")
    small.add_argument("parent", metavar="PARENT")
    small.add_argument("--calibration", metavar="DATA", required=True)
    small.add_argument("--revision")
    args = small.parse_args(arguments)
    checkpoint = find(args.parent, args.revision)
    family_of(checkpoint.empty())  # unknown ones are refused before anything is downloaded
    parent = checkpoint.trained()
    print(check(Anatomy(parent), batches(checkpoint, parent, args.calibration, 2)[0]))


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["inspect"]:
            inspect(given[1:])
        elif given[:1] == ["score"]:
            score_parent(given[1:])
        elif given[:1] == ["verify"]:
            verify_parent(given[1:])
        else:
            args = parser().parse_args(given)
            checkpoint = find(args.parent, args.revision)
            rotates = Anatomy(checkpoint.empty()).rotates and args.scores != "weights"
            args.select = args.select or ("principal" if rotates else "importance")
            build(checkpoint, args.out, args, " ".join(["subclone", *given]))
    except (SubcloningError, OSError) as error:  # a full disk among them
        print(f"subclone: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsubclone: stopped, and nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
