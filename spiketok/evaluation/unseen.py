"""One session that the model never saw, and the copies of the model that adapt to it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spiketok.evaluation.alignment import Alignments
from spiketok.evaluation.maps import Maps
from spiketok.evaluation.results import Event
from spiketok.models.base import Model, Part
from spiketok.recording.nouns import Intervals, Session
from spiketok.training.checkpoints import Run
from spiketok.training.loader import Loader
from spiketok.training.predict import session_loader
from spiketok.training.sections import TransferConfig
from spiketok.training.sessions import DividedSession
from spiketok.training.tasks.base import Task


@dataclass(frozen=True, eq=False)
class Unseen:
    """One session, with one draw of its calibration, on which protocols are evaluated.

    Args:
        run, session, adapt: the model, its calibration and test time, how it adapts.
        seed: of new rows and calibration windows. device: where. emit: takes events.
        maps: of the run, for rows that begin at a map. stored: gives a session from the store.
        keep: called with the row and the model that has adapted to the whole calibration. alignments: of the run.
        answered: called with the row, the model that answers for it, and the time that its inputs were cut of.
    """

    run: Run
    session: DividedSession
    adapt: TransferConfig
    seed: int
    device: torch.device
    emit: Callable[[Event], None]
    maps: Maps
    stored: Callable[[str], Session | None] | None = None
    keep: Callable[[str, Model], None] = lambda protocol, model: None
    alignments: Alignments | None = None
    answered: Callable[[str, Model, Intervals], None] = lambda protocol, model, known: None

    def model(self) -> Model:
        """A copy of the trained model that knows the session; its new rows are the same in every protocol."""
        model = copy.deepcopy(self.run.model)
        torch.manual_seed(self.seed)
        model.add_sessions([self.session.tokens.info])
        return model.to(self.device)

    def loader(self, model: Model, tasks: Sequence[Task], sampler, batch_size: int) -> Loader:
        """Windows of the calibration time, with what these tasks ask."""
        time = self.session.calibration
        return session_loader(model, sampler, batch_size, tasks=tasks, calibration=time, seed=self.seed)

    def tell(self, protocol: str, step: int, steps: int, loss: float) -> None:
        """The event of a step of an adaptation."""
        self.emit(
            {
                "event": "adapt",
                "cell": f"{self.session.id} {protocol}",
                "session": self.session.id,
                "protocol": protocol,
                "step": step,
                "total_steps": steps,
                "loss": loss,
            }
        )


@contextmanager
def still(model: nn.Module, identity: Sequence[Part], protocol: str) -> Iterator[None]:
    """Raise AssertionError where anything but an identity has changed inside: every other bit must stay."""
    before = _others(model, identity)
    yield
    changed = [name for name, tensor in _others(model, identity).items() if not _same_bits(tensor, before[name])]
    if changed:
        message = f"{protocol} changed {', '.join(changed[:4])}, which are not identity parameters: a bug"
        raise AssertionError(message)


def _others(model: nn.Module, identity: Sequence[Part]) -> dict[str, Tensor]:
    """Copies of all that is no part of an identity: whole parameters, and the other rows of tables."""
    own: dict[int, list[slice | None]] = {}
    for part in identity:
        own.setdefault(id(part.parameter), []).append(part.rows)
    found = {}
    for name, p in model.named_parameters():
        rows = own.get(id(p), [])
        if None not in rows:
            other = torch.ones(len(p) if rows else (), dtype=torch.bool, device=p.device)
            for part in rows:
                other[part] = False
            found[name] = p.detach()[other]  # a copy
    return found


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
