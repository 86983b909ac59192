"""How images are prepared for a model: timm's data config, of the set and of the parent."""

import json
from pathlib import Path

import timm
from timm.data import resolve_data_config

from ...errors import SubcloningError

PREPROCESSING = ("mean", "std", "interpolation", "crop_pct")


def preprocessing_of(model: dict, weights: dict | None) -> dict:
    """timm's data config of a parent given as to `TimmParent`: of one of our runs its own, else what timm knows."""
    path = (weights or {}).get("checkpoint_path")
    file = path and Path(path).with_name("config.json")
    if file and file.exists():
        known = json.loads(file.read_text())["pretrained_cfg"]
    else:
        pretrained = timm.get_pretrained_cfg(model["model_name"])
        if not pretrained:
            raise SubcloningError(f"timm has no pretrained weights of the name {model['model_name']!r}: see its tags")
        known = pretrained.to_dict()
    found = resolve_data_config(pretrained_cfg=known)
    # timm has tuples, a file lists; runs from before and after the parent was trained are of one study.
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}


def agreed(own: dict, parent: dict | None, *, override: bool = False) -> dict:
    """timm's data config for a set of images: its own values, and the parent's for what it leaves out or has as None.

    Where both say something else, SubcloningError; unless `override`, and then its own count.
    """
    own = {key: value for key, value in own.items() if value is not None}
    parent = {key: parent[key] for key in PREPROCESSING if key in parent} if parent else {}

    def differs(key):
        a, b = ([x] if isinstance(x, str | float | int) else list(x) for x in (own[key], parent[key]))
        return a != b

    wrong = [f"{key} {own[key]} (the parent's: {parent[key]})" for key in own if key in parent and differs(key)]
    if wrong and not override:
        raise SubcloningError(
            f"data.preprocessing has {', '.join(wrong)}: prepare images as they were for the parent, or set "
            "data.override_preprocessing=true"
        )
    return parent | own
