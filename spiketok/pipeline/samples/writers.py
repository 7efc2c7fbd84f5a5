"""Samples in the formats of streaming loaders, each written by its own library.

| name | library | read by |
|---|---|---|
| ``mds`` | mosaicml-streaming | ``streaming.StreamingDataset(local=FOLDER/train)`` |
| ``litdata`` | litdata | ``litdata.StreamingDataset(FOLDER/train)`` |
| ``webdataset`` | webdataset | ``webdataset.WebDataset(FOLDER/train/*.tar)`` |
| ``hf`` | datasets | ``datasets.load_from_disk(FOLDER/train)`` |
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np

from spiketok.errors import MissingExtraError
from spiketok.pipeline.samples.windows import Sample, Source
from spiketok.tokens.shards import ShardReader

CHUNK_BYTES = 64_000_000  # of a file of samples


@dataclass(frozen=True)
class Writer:
    """A format: ``write(folder, sources, told)`` puts the samples of a split into a folder; ``module`` writes them."""

    name: str
    module: str
    package: str
    write: Callable[[Path, Sequence[Source], Callable[[], None]], None]

    def require(self) -> ModuleType:
        """Import its library, or say in one line how to get it."""
        try:
            return import_module(self.module)
        except ModuleNotFoundError as error:
            lacks = error.name or self.module
            own = lacks.partition(".")[0] == self.module
            fact = "is not installed" if own else f"needs '{lacks}', which is not installed"
            message = f"--to {self.name} needs '{self.module}', which {fact}: pip install {self.package}"
            raise MissingExtraError(message) from error
        except (ImportError, RuntimeError, AttributeError, OSError) as error:  # of a library that it imports
            fact = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no word'}"
            message = (
                f"--to {self.name} needs '{self.module}', which is installed and cannot be imported ({fact}): mend "
            )
            message += f"the environment, until python -c 'import {self.module}' says nothing"
            raise MissingExtraError(message) from error


def _all(sources: Sequence[Source], told: Callable[[], None]) -> Iterator[Sample]:
    for source in sources:
        for sample in source.samples():
            yield sample
            told()


def _mds(folder: Path, sources: Sequence[Source], told: Callable[[], None]) -> None:
    from streaming import MDSWriter

    first = sources[0].sample(0)
    columns = {name: _mds_kind(value) for name, value in first.items()}
    with MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES, progress_bar=False) as out:
        for sample in _all(sources, told):
            out.write(sample)


def _mds_kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"ndarray:{value.dtype}"
    return "str" if isinstance(value, str) else "int"


def _webdataset(folder: Path, sources: Sequence[Source], told: Callable[[], None]) -> None:
    import webdataset

    pattern = str(folder / "samples-%06d.tar")
    with webdataset.ShardWriter(pattern, maxsize=CHUNK_BYTES, verbose=0, mtime=0, user="", group="") as out:
        for k, sample in enumerate(_all(sources, told)):
            arrays = {f"{name}.npy": value for name, value in sample.items() if isinstance(value, np.ndarray)}
            facts = {name: value for name, value in sample.items() if not isinstance(value, np.ndarray)}
            out.write({"__key__": f"{k:09d}", "json": json.dumps(facts).encode(), **arrays})


@dataclass(frozen=True)
class _Cut:
    """Cuts a window in a worker of litdata."""

    sources: tuple[Source, ...]

    def __call__(self, place: tuple[int, int]) -> Sample:
        return self.sources[place[0]].sample(place[1], ShardReader(self.sources[place[0]].shard))


def _litdata(folder: Path, sources: Sequence[Source], told: Callable[[], None]) -> None:
    import litdata

    places = [(k, row) for k, source in enumerate(sources) for row in range(len(source))]
    litdata.optimize(
        _Cut(tuple(sources)), inputs=places, output_dir=str(folder), chunk_bytes=CHUNK_BYTES, num_workers=1,
        reorder_files=False, verbose=False,
    )  # fmt: skip
    for _ in places:
        told()


def _hf(folder: Path, sources: Sequence[Source], told: Callable[[], None]) -> None:
    import datasets

    first = sources[0].sample(0)
    features = datasets.Features({name: _feature(datasets, value) for name, value in first.items()})
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="spiketok-") as cache:
        from datasets.arrow_writer import ArrowWriter

        file = os.path.join(cache, "samples.arrow")
        writer = ArrowWriter(features=features, path=file)
        rows = _all(sources, told)
        while batch := list(islice(rows, 256)):
            for sample in batch:
                writer.write(sample)
        writer.finalize()
        datasets.Dataset.from_file(file).with_format("numpy").save_to_disk(str(folder))


def _feature(datasets: ModuleType, value: object) -> object:
    if isinstance(value, str):
        return datasets.Value("string")
    if not isinstance(value, np.ndarray):
        return datasets.Value("int64")
    dtype = str(value.dtype)
    if value.ndim == 1:
        return datasets.Sequence(datasets.Value(dtype))
    inner = datasets.Sequence(datasets.Value(dtype))
    for _ in range(value.ndim - 1):
        inner = datasets.Sequence(inner)
    return inner


WRITERS = {
    one.name: one
    for one in (
        Writer("mds", "streaming", "mosaicml-streaming", _mds),
        Writer("litdata", "litdata", "litdata", _litdata),
        Writer("webdataset", "webdataset", "webdataset", _webdataset),
        Writer("hf", "datasets", "datasets", _hf),
    )
}
