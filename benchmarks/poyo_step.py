"""A training step of POYO on a CPU: ours beside torch_brain's, on the same batches in the same run.

    .venv-oracle/bin/python benchmarks/poyo_step.py [tiny 1.3M] [--batch N] [--rounds N] [--threads N]

A step is forward, weighted MSE, backward, AdamW. torch_brain reads the tokens padded to a multiple of 8 with a mask, as
its own collate makes them; both have the dropout of the size. The two take turns; CPU seconds of this process are
counted, and medians printed. The line without dropout has all rates at 0.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from harness import machine
from steps import made_session, tokens_of
from torch.nn.utils.rnn import pad_sequence
from torch_brain.models import POYO
from torch_brain.models.poyo import create_linspace_latent_tokens

from spiketok.models.batch import Batch, Progress
from spiketok.models.poyo import Poyo
from spiketok.training.config import load_config
from spiketok.training.loop import build_model, prepare, train_loader
from spiketok.training.optimizers import build_optimizer

PAD_TO = 8


def theirs_like(ours: Poyo, sessions: list, window_s: float) -> POYO:
    """torch_brain's model of the same sizes, which knows the same sessions."""
    c = ours.config
    model = POYO(
        sequence_length=window_s, dim_out=2,
        latent_step=c.latent_step_ms / 1e3, num_latents_per_step=c.latents_per_step, dim=c.dim, depth=c.depth,
        dim_head=c.dim_head, cross_heads=c.cross_heads, self_heads=c.self_heads, ffn_dropout=c.dropout_ffn,
        lin_dropout=c.dropout_lin, atn_dropout=c.dropout_attention,
    )  # fmt: skip
    model.unit_emb.initialize_vocab([key for s in sessions for key in s.tokens.info.unit_keys()])
    model.session_emb.initialize_vocab([s.id for s in sessions])
    return model.train()


def padded(batch: Batch, config, window_s: float) -> dict[str, torch.Tensor]:
    """A batch as torch_brain's model takes it; rows of units are the same in both tables."""
    columns, length = batch.inputs["spikes"].packed()
    most = -(-max(length) // PAD_TO) * PAD_TO

    def rows(values: torch.Tensor, lengths: list[int], to: int) -> torch.Tensor:
        wide = pad_sequence(list(values.split(lengths)), batch_first=True)
        return torch.nn.functional.pad(wide, (0, to - wide.shape[1]))

    asked = next(iter(batch.asked.values()))
    queries = asked.offset.diff().tolist()
    index, at = create_linspace_latent_tokens(
        0, window_s, step=config.latent_step_ms / 1e3, num_latents_per_step=config.latents_per_step
    )
    return {
        "input_unit_index": rows(columns["unit"].long(), length, most),
        "input_timestamps": rows(columns["time"], length, most),
        "input_token_type": rows(columns["type"].long(), length, most),
        "input_mask": torch.arange(most) < torch.tensor(length)[:, None],
        "latent_index": torch.from_numpy(index).expand(len(batch), -1),
        "latent_timestamps": torch.from_numpy(at).float().expand(len(batch), -1),
        "session_index": batch.session_B,
        "output_timestamps": rows(asked.time, queries, max(queries)),
    }


def seconds(step) -> float:
    begun = time.process_time()
    step()
    return time.process_time() - begun


def compare(size: str, n_batch: int, rounds: int, *, dropout: bool) -> tuple[float, float]:
    """CPU seconds of a step, ours and torch_brain's: medians over the rounds."""
    none = [] if dropout else [f"model.{name}=0" for name in ("dropout_ffn", "dropout_lin", "dropout_attention")]
    config = load_config("poyo", None, [f"size={size}", f"data.batch_size={n_batch}", "optim.name=adamw", *none])
    window_s = config.data.window_ms / 1e3
    with tempfile.TemporaryDirectory() as folder:
        divided, tasks = prepare(config, [tokens_of(Path(folder), config, made_session(k, 100)) for k in range(2)])
        ours = build_model(config, tasks, divided).train()
        batches = [
            batch.clone() for batch, _ in zip(train_loader(config, divided, ours, tasks), range(3), strict=False)
        ]
    theirs = theirs_like(ours, divided, window_s)
    other = [padded(batch, ours.config, window_s) for batch in batches]
    optimizers = [build_optimizer(ours, config.optim), torch.optim.AdamW(theirs.parameters(), lr=1e-4)]
    took: tuple[list[float], list[float]] = ([], [])

    def our_step(k: int) -> None:
        batch = batches[k % len(batches)]
        ours.loss(batch, ours(batch), Progress(0, 1))["total"].backward()
        optimizers[0].step()
        optimizers[0].zero_grad()

    def their_step(k: int) -> None:
        batch, given = batches[k % len(batches)], other[k % len(batches)]
        asked = next(iter(batch.asked.values()))
        out = theirs(**given)
        valid = torch.arange(out.shape[1]) < asked.offset.diff()[:, None]
        ((out[valid] - asked.target).square().mean(-1) * asked.weight).sum().div(asked.weight.sum()).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()

    for k in range(rounds + 1):
        pair = seconds(lambda k=k: our_step(k)), seconds(lambda k=k: their_step(k))
        if k:  # the first warms up
            for held, value in zip(took, pair, strict=True):
                held.append(value)
    return statistics.median(took[0]), statistics.median(took[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["tiny", "1.3M"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine()}, torch {torch.__version__}, {arguments.threads} threads, batch {arguments.batch}\n")
    print("| size | dropout | ours s | torch_brain s | times |\n| --- | --- | --- | --- | --- |")
    for size in arguments.sizes:
        for dropout in (True, False):
            ours, theirs = compare(size, arguments.batch, arguments.rounds, dropout=dropout)
            kind = "of the size" if dropout else "none"
            print(f"| {size} | {kind} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
