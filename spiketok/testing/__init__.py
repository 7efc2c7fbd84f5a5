"""The laws that spiketok holds its own models, schemes, tasks, datasets and metrics to, for those of other packages.

    import pytest
    from spiketok.testing import laws
    from my_package.scheme import MyScheme

    @pytest.mark.parametrize("law", laws(MyScheme), ids=str)
    def test_scheme(law, tmp_path):
        law(tmp_path)

A law is a function of a folder that it may write to; it raises AssertionError, in words, where the law does not hold.
Nothing here needs pytest, and :func:`check` runs all of them at once. What is tested need not be installed: it has its
name for the time of a law.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spiketok.errors import UsageError

__all__ = ["Law", "check", "laws", "registered"]


@dataclass(frozen=True)
class Law:
    """One law of one thing.

    Args:
        name: in words, with underscores. holds: raises AssertionError where it does not.
        beside: what must have a name for it: the thing, and what it reads.
    """

    name: str
    holds: Callable[[Path], None]
    beside: tuple[object, ...] = ()

    def __str__(self) -> str:
        return self.name

    def __call__(self, folder: Path | None = None) -> None:
        """Hold the thing to the law.

        Args:
            folder: an empty one for what the law writes; one that is removed afterwards by default.
        """
        with contextlib.ExitStack() as stack:
            for thing in self.beside:
                stack.enter_context(registered(thing))
            self.holds(Path(folder or stack.enter_context(tempfile.TemporaryDirectory())))


def laws(
    thing: object,
    *,
    variants: Sequence[object] = (),
    reference: Callable[..., dict] | None = None,
    settings: Mapping[str, object] | None = None,
    beside: Sequence[object] = (),
) -> list[Law]:
    """The laws of a model, a scheme, a task (classes), a dataset (an entry of the catalogue) or a metric (a function).

    Args:
        variants: of a scheme, instances with other fields; one with its defaults by default.
        reference: of a scheme, what its tokens must be, written so that it can be read: called as ``reference(scheme,
            session, segments, windows, b, keep, unit_row)``, the columns of window b.
        settings: of a model, fields of its Config that make it small, over its size ``tiny`` or its first one.
        beside: other things of the same package that it needs by name: the scheme that a model reads.
    """
    around = (*beside, thing)
    return [Law(name, holds, around) for name, holds in _found(thing, variants, reference, settings or {})]


def check(thing: object, **how) -> None:
    """All :func:`laws` of a thing, one after the other.

    Raises:
        AssertionError: with the names of those that do not hold, and why.
    """
    faults = []
    for law in laws(thing, **how):
        try:
            law()
        except Exception as error:  # noqa: BLE001 - a law may fail in any way, and the others are told too
            faults.append(f"{law}: {type(error).__name__}: {error}")
    if faults:
        raise AssertionError("\n".join(faults))


@contextlib.contextmanager
def registered(thing: object) -> Iterator[None]:
    """For a time give a thing its name, as an entry point would; it stands before what is installed."""
    registry, name = _place(thing)
    before = registry.builtin.get(name)
    registry[name] = thing
    try:
        yield
    finally:
        if before is None:
            del registry[name]
        else:
            registry[name] = before


def _place(thing: object) -> tuple:
    """The registry of things of this kind, and its name there."""
    if inspect.isclass(thing):
        from spiketok.tokens.schemes import SCHEMES, Scheme

        if issubclass(thing, Scheme):
            return SCHEMES, thing.name
        from spiketok.models import MODELS
        from spiketok.models.base import Model
        from spiketok.training.tasks import TASKS, Task

        if issubclass(thing, Model):
            return MODELS, thing.name
        if issubclass(thing, Task):
            return TASKS, thing.kind
    else:
        from spiketok.recording.metrics import METRICS
        from spiketok.sources.catalogue import DATASETS, Dataset

        if isinstance(thing, Dataset):
            return DATASETS, thing.name
        if inspect.isfunction(thing):
            return METRICS, thing.__name__
    message = f"{thing!r} is no model, scheme, task, dataset or metric: give the class, the entry or the function"
    raise UsageError(message)


def _found(thing: object, variants: Sequence, reference, settings: Mapping) -> Iterator[tuple[str, Callable]]:
    registry, _ = _place(thing)
    if registry.kind == "scheme":
        from spiketok.testing.schemes import laws_of_scheme

        yield from laws_of_scheme(thing, variants or (thing(),), reference)
    elif registry.kind == "model":
        from spiketok.testing.models import laws_of_model

        yield from laws_of_model(thing, settings)
    else:
        from spiketok.testing import others

        yield from getattr(others, f"laws_of_{registry.kind}")(thing)
