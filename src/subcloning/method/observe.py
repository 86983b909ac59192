"""Watching a model run: hooks are handed what goes into a module and what comes out, and nothing is left behind."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SubcloningError


@dataclass(frozen=True)
class Call:
    """One call of the module called `name`.

    input: the tensor that it was given first, by position or by keyword. output: what it put out; of several tensors,
        the first.
    again: what it puts out for another input, with the same further arguments.
    mask: (batch, tokens) bool, False where the batch is padding; None where none is.
    """

    name: str
    input: Tensor
    output: Tensor
    again: Callable[[Tensor], Tensor]
    mask: Tensor | None

    def rows(self, value: Tensor) -> Tensor:
        """(positions, size) float32: the vectors of `value` (batch, ..., size) at every position but padding."""
        if value.is_meta:
            raise SubcloningError("the model is on the meta device and has no values: build it on a real device")
        value = value.detach().float()
        if self.mask is None:
            return value.flatten(0, -2)
        if self.mask.shape != value.shape[:-1]:
            raise SubcloningError(
                f"attention_mask {tuple(self.mask.shape)} does not say what is padding at {self.name}, whose values "
                f"are {tuple(value.shape)}: give a mask of (batch, tokens), or batches without padding"
            )
        return value[self.mask.to(value.device)]

    def lengths(self, value: Tensor) -> Tensor:
        """(batch,) int64: how many positions of each sample `rows` keeps."""
        if self.mask is None:
            return torch.full(value.shape[:1], value.shape[1:-1].numel(), device=value.device)
        return self.mask.sum(1).to(value.device)


Hook = Callable[[Call], Tensor | None]


def observe(
    model: nn.Module,
    hooks: Iterable[tuple[str, Hook]],
    batches: Iterable[Tensor | Mapping[str, object]],
    run: Callable | None = None,
    *,
    gradients: bool = False,
) -> None:
    """Run `model`, or `run` in its place, over `batches` (see `score`): `undisturbed`, and `hooked`.

    Raises SubcloningError if no batch has a position, if one is of another kind, and if in one the hooked modules are
    not all called equally often: then a mean over calls is none over the data.
    """
    if isinstance(batches, Tensor | Mapping):
        raise SubcloningError("batches must be an iterable of batches, got a single one: put it in a list")
    hooks = list(hooks)
    # Some may be on the meta device, where accelerate offloads them.
    device = min((parameter.device for parameter in model.parameters()), key=lambda device: device.type == "meta")
    seen = False
    with undisturbed(model, gradients):
        for batch in batches:
            args, kwargs = _arguments(batch, device)
            mask = kwargs.get("attention_mask")
            mask = None if mask is None or mask.bool().all() else mask.bool()
            if mask is not None and not mask.any():
                continue
            with hooked(model, hooks, mask) as counts:
                (run or model)(*args, **kwargs)
            if 0 in counts or len(set(counts)) > 1:
                calls = {name: count for (name, _), count in zip(hooks, counts, strict=True)}
                rarest, most = min(calls, key=calls.__getitem__), max(calls, key=calls.__getitem__)
                raise SubcloningError(
                    f"in one batch {rarest} was called {calls[rarest]} times and {most} {calls[most]} times: a module "
                    "that is read must be called once in each forward pass. Correct the family's probes and norms"
                )
            seen = True
    if not seen:
        raise SubcloningError("batches is empty, or all padding: at least one batch of the parent's data is needed")


@contextmanager
def hooked(model: nn.Module, hooks: Iterable[tuple[str, Hook]], mask: Tensor | None = None) -> Iterator[list[int]]:
    """Within, hook(call) follows each call of the module of that name; a tensor that it returns is put out instead.

    Yields how often each hook was called so far.
    """
    hooks = list(hooks)
    counts = [0] * len(hooks)

    def listener(number: int, name: str, hook: Hook):
        def listen(module, args, kwargs, output):
            counts[number] += 1
            keyword = None if args else _first_keyword(module, kwargs)
            value = args[0] if args else kwargs.get(keyword)

            def again(x: Tensor) -> Tensor:
                if args:
                    return _first(module.forward(x, *args[1:], **kwargs))
                return _first(module.forward(**{**kwargs, keyword: x}))

            for what, tensor in {"was given": value, "put out": _first(output)}.items():
                if not isinstance(tensor, Tensor):
                    raise SubcloningError(f"{name} {what} a {type(tensor).__name__}, expected a tensor to read")
            new = hook(Call(name, value, _first(output), again, mask))
            return new if new is None or isinstance(output, Tensor) else (new, *output[1:])

        return listen

    with ExitStack() as stack:
        for number, (name, hook) in enumerate(hooks):
            handle = model.get_submodule(name).register_forward_hook(listener(number, name, hook), with_kwargs=True)
            stack.callback(handle.remove)
        yield counts


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _first_keyword(module: nn.Module, kwargs: Mapping[str, object]) -> str | None:
    """The keyword under which a module that is called with keywords only takes its input."""
    declared = next(iter(inspect.signature(module.forward).parameters), None)
    return declared if declared in kwargs else next(iter(kwargs), None)


@contextmanager
def no_autocast() -> Iterator[None]:
    """Within, or in a function that it decorates, all is computed in the dtypes that are given."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    with ExitStack() as stack:
        for kind in {"cpu", accelerator.type} if accelerator else {"cpu"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def undisturbed(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Within, evaluation mode, no autocast, and no gradients unless asked for.

    Afterwards each module's mode and the global random state are as before.
    """
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(gradients))
        stack.enter_context(torch.random.fork_rng(devices=list(devices)))
        stack.enter_context(no_autocast())
        for module in model.modules():
            stack.callback(setattr, module, "training", module.training)
        model.eval()
        yield


def _arguments(batch: Tensor | Mapping[str, object], device: torch.device) -> tuple[tuple, dict]:
    """Positional and keyword arguments of the forward pass, on `device`."""

    def moved(value):
        if not isinstance(value, Tensor):
            return value
        value = value.to(device)
        return value.clone() if value.is_inference() else value  # which no gradient can pass

    if isinstance(batch, Tensor):
        return (moved(batch),), {}
    if isinstance(batch, Mapping):
        return (), {key: moved(value) for key, value in batch.items() if key != "labels"}
    raise SubcloningError(
        f"each batch must be a tensor or a mapping of keyword arguments, got {type(batch).__name__}; "
        "from a loader of (input, label) pairs pass (x for x, _ in loader)"
    )
