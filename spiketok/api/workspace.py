"""A workspace that is open: what ``spiketok.open`` gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from spiketok.api.sessions import Sessions, StoredSession, ns_of
from spiketok.api.tables import html_of
from spiketok.errors import DataError, UnknownNameError, UsageError
from spiketok.storage.workspace import Workspace, match_sessions

if TYPE_CHECKING:
    from spiketok.api.dataset import WindowDataset
    from spiketok.api.lightning import WindowModule
    from spiketok.api.prepared import Prepared
    from spiketok.api.runs import Evaluation, TrainedRun
    from spiketok.api.tokens import SessionShard
    from spiketok.tokens.schemes import Scheme
    from spiketok.training.requests import TrainingRequest

Chosen = str | StoredSession | Iterable[str | StoredSession] | None
Settings = Mapping[str, object] | Sequence[str] | None

log = logging.getLogger("spiketok")


def open_workspace(root: str | Path | None = None, store: str | None = None) -> OpenWorkspace:
    """The folder that the commands work in; it need not exist yet.

    Args:
        root: by default ``SPIKETOK_ROOT``, else ``./spiketok-data``.
        store: where the store is, if elsewhere: a folder or a URL (``"s3://bucket/folder"``).

    >>> import tempfile
    >>> open_workspace(tempfile.mkdtemp()).sessions()
    Sessions(0: )
    """
    return OpenWorkspace(Workspace.locate(None if root is None else Path(root), store).absolute())


class OpenWorkspace:
    """Sessions, tokens, windows and runs of a workspace.

    What is chosen without being asked for (a model, sessions that are left out) is logged at level INFO under
    ``"spiketok"``, in the words of the commands.

    Attributes:
        place: where everything lies, as the rest of the package has it.
    """

    def __init__(self, place: Workspace) -> None:
        self.place = place

    def __repr__(self) -> str:
        store = f", store='{self.place.store_place}'" if self.place.store_place is not None else ""
        return f"spiketok.open('{self.place.root}'{store})"

    def _repr_html_(self) -> str:
        n = len(self.place.session_ids())
        return html_of(str(self.place.root), {"sessions": n, "runs": len(self.runs())})

    # ---- sessions -------------------------------------------------------------------------------------------------

    def _indexed(self) -> Workspace:
        """As the store is now, for what asks many sessions."""
        return self.place.indexed(log.warning)

    def sessions(
        self,
        patterns: Chosen = None,
        *,
        subject: str | None = None,
        signal: str | None = None,
        where: Callable[[Mapping[str, object]], bool] | None = None,
    ) -> Sessions:
        """The sessions of the store that fit all that is asked; all of them by default.

        Args:
            patterns: globs on ids, with commas or as a list, as ``"mc_maze*, */day01"``.
            subject: a glob on the subject. signal: the name of a behaviour that it has.
            where: called with the facts of a session (``n_units``, ``n_spikes``, ``session_start`` ...).

        Raises:
            UnknownNameError: a pattern matches nothing.
        """
        from fnmatch import fnmatchcase

        place = self._indexed()
        known = place.session_ids()
        found = known if patterns is None or not known else match_sessions(known, words_of(patterns), str(place.store))
        if patterns is not None and not known:
            place.select(words_of(patterns))  # says that the store is empty, and what fills it
        kept = []
        for session in found:
            facts = place.facts(session)
            fits = subject is None or fnmatchcase(str(facts["subject"]), subject)
            fits = fits and (signal is None or signal in facts["signals"])
            if fits and (where is None or where(facts)):
                kept.append(session)
        return Sessions(place, kept)

    def __getitem__(self, session: str) -> StoredSession:
        """One session by its id, or by what stands behind the slash; a glob where it fits one alone.

        Raises:
            UnknownNameError: there is none. UsageError: several fit.
        """
        return StoredSession(self.place, self._one(session))

    def __contains__(self, session: object) -> bool:
        return str(session) in self.place.session_ids()

    def __len__(self) -> int:
        return len(self.place.session_ids())

    def __iter__(self):
        return iter(self.sessions())

    def _one(self, session: str | StoredSession) -> str:
        if isinstance(session, StoredSession):
            return session.id
        known = self.place.session_ids()
        if session in known:
            return session
        found = self.place.select(session)
        if len(found) > 1:
            message = f"'{session}' names {len(found)} sessions ({', '.join(found[:3])}): name one, or use .sessions()"
            raise UsageError(message)
        return found[0]

    # ---- tokens and windows ---------------------------------------------------------------------------------------

    def tokens(
        self,
        session: str | StoredSession,
        scheme: str | Scheme,
        *,
        segments: str = "observed",
        tokenize: bool = False,
        **fields: object,
    ) -> SessionShard:
        """The tokens of a session by a scheme, to look at and to cut windows of.

        Args:
            scheme: its name, with its ``fields`` as keywords (``bin_ms=20`` for ``bin_ns``), or one that is made.
            segments: what is baked: ``"observed"``, ``"continuous"`` or ``"trials:ALIGN,PRE_MS,POST_MS"``.
            tokenize: make the shard if there is none.

        Raises:
            DataError: there is no such shard; the message holds the command that makes it.
        """
        from spiketok.api.tokens import SessionShard
        from spiketok.tokens.shards import ShardReader

        made = scheme_named(scheme, fields)
        ((path,),) = self._shards([self._one(session)], [made], segments, tokenize)
        return SessionShard(ShardReader(path))

    def _shards(
        self, sessions: Sequence[str], schemes: Sequence[Scheme], segments: str, tokenize: bool
    ) -> list[list[Path]]:
        """Where the shards of sessions lie, a list a session; made where they lack and are asked for.

        Raises:
            DataError: some lack.
        """
        from spiketok.pipeline.tokenize import shard_path

        place = self._indexed()
        paths = [[shard_path(place, session, scheme, segments) for scheme in schemes] for session in sessions]
        absent = [s for s, own in zip(sessions, paths, strict=True) if not all(path.exists() for path in own)]
        if absent and tokenize:
            from spiketok.api.making import tokenize as bake

            bake(schemes, absent, segments=segments, root=self)
        elif absent:
            from spiketok.pipeline.tokenize import tokenize_words

            lacking = next(scheme for scheme, path in zip(schemes, paths[sessions.index(absent[0])], strict=True)
                           if not path.exists())  # fmt: skip
            more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
            message = (
                f"no {lacking.name} shard of {absent[0]}{more}: {tokenize_words(lacking, segments)} (or tokenize=True)"
            )
            raise DataError(message)
        return paths

    def dataset(
        self,
        scheme: str | Scheme | Mapping[str, str | Scheme] = "per-spike",
        sessions: Chosen = None,
        *,
        window_s: float = 1.0,
        split: str = "train",
        target: str | Sequence[str] | None = None,
        task_settings: Mapping[str, Mapping[str, object]] | None = None,
        split_rule: Mapping[str, object] | None = None,
        batch_size: int | None = None,
        layout: str = "packed",
        unit_dropout: Mapping[str, object] | None = None,
        seed: int = 0,
        segments: str = "observed",
        tokenize: bool = False,
        rank: int | None = None,
        world: int | None = None,
        even: bool = False,
        **fields: object,
    ) -> WindowDataset:
        """Windows of sessions as a torch ``IterableDataset``; see :class:`spiketok.api.dataset.WindowDataset`.

        Args:
            scheme: its name, with its ``fields`` as keywords (``bin_ms=20``), or one that is made; or several by the
                names under which a batch holds them.
            sessions: globs, ids or sessions; all by default.
            window_s: length of a window.
            split: ``"train"`` gives windows at random places, another one windows one behind the other.
            target: what is asked: a behaviour, or a question as of ``--task`` (``"classify:choice"``,
                ``"population"``); several as a list; None for tokens alone.
            task_settings: settings of the questions by kind. split_rule: fields of ``SplitRule``, as ``{"kind":
                "trial"}``; by default the session's stored division, else blocks of 70, 10 and 20 %.
            batch_size: give batches of so many windows, cut at once, in place of single windows.
            layout: of batches, ``"packed"`` or ``"padded"``.
            unit_dropout: fields of ``UnitDropout`` (``min_units`` ...), for the training split.
            seed: of all that is random. segments: what was baked. tokenize: make the shards that are missing.
            rank, world, even: see the class.

        Raises:
            DataError: a shard is missing, or no window fits.
            UsageError, UnknownNameError: what is asked does not exist.
        """
        from spiketok.api.asking import divided_for, inputs_for, questions_of
        from spiketok.api.dataset import (
            Placing,
            Recipe,
            WindowDataset,
            differ_in_width,
            empty_split,
            rows_of_all,
        )
        from spiketok.models.batch import Timing
        from spiketok.recording.splits import SplitRule
        from spiketok.settings import build
        from spiketok.tokens.shards import ShardReader
        from spiketok.training.loop import require_grid
        from spiketok.training.sampling import SessionTokens
        from spiketok.training.sections import DataConfig
        from spiketok.training.unit_dropout import UnitDropout

        window_ns = ns_of(window_s, "window_s")
        named = scheme if isinstance(scheme, Mapping) else {name_of(scheme): scheme}
        schemes = {name: scheme_named(one, fields) for name, one in named.items()}
        bins = [one.bin_ns for one in schemes.values() if hasattr(one, "bin_ns")]
        size = 32 if batch_size is None else batch_size
        data = DataConfig(window_ms=window_ns / 1e6, batch_size=size, **({"bin_ms": max(bins) / 1e6} if bins else {}))
        questions = questions_of(target, task_settings)
        schemes = inputs_for(schemes, questions, Timing(window_ns, round(data.bin_ms * 1e6)))
        chosen = self.place.select(None if sessions is None else words_of(sessions))
        paths = self._shards(chosen, list(schemes.values()), segments, tokenize)
        place = self._indexed()
        opened = [
            SessionTokens(dict(zip(schemes, map(ShardReader, own), strict=True)), facts=place.facts(session))
            for session, own in zip(chosen, paths, strict=True)
        ]
        for tokens in opened:
            require_grid(tokens, _Grid(data))
        rule = build(SplitRule, dict(split_rule or {}), "split_rule", "field")
        if rule.kind == "day":
            message = "split_rule kind 'day' divides sessions, not the time of one: choose them by sessions="
            raise UsageError(message)
        divided, tasks = divided_for(opened, questions, rule, window_ns)
        if split not in divided[0].splits:
            raise UnknownNameError("split", split, divided[0].splits)
        if empty_split(divided, split):
            message = f"no session has {split} time: choose another split_rule, as {{'kind': 'block'}}"
            raise DataError(message)
        dropout = None
        if unit_dropout is not None and split == "train":
            dropout = build(UnitDropout, dict(unit_dropout), "unit_dropout", "field")
        recipe = Recipe(
            sessions=divided,
            tasks=tasks,
            split=split,
            sampler=Placing(window_ns, split == "train", seed),
            window_ns=window_ns,
            batch_size=batch_size,
            layout=layout,
            one_session=differ_in_width(divided, window_ns),
            unit_dropout=dropout,
            seed=seed,
            unit_rows=rows_of_all(divided),
            session_rows={session.id: k for k, session in enumerate(divided)},
            data=data,
        )
        if layout != "packed" and batch_size is None:
            message = f"layout='{layout}' is of batches: give batch_size too"
            raise UsageError(message)
        return WindowDataset(recipe, rank=rank, world=world, even=even)

    def datamodule(self, *args: object, num_workers: int = 0, **options: object) -> WindowModule:
        """The windows of :meth:`dataset` for a Lightning Trainer.

        Args:
            args, options: of :meth:`dataset`; ``batch_size`` is 32 by default. num_workers: of its DataLoaders.

        Raises:
            MissingExtraError: Lightning is not installed.
        """
        from spiketok.api.lightning import WindowModule

        return WindowModule(self.dataset(*args, **({"batch_size": 32} | options)), num_workers=num_workers)

    # ---- the package's models -------------------------------------------------------------------------------------

    def _request(
        self, model: str | None, sessions: Chosen, hold_out: str | None, *, tokenize: bool, **given: object
    ) -> TrainingRequest:
        from spiketok.api.prepared import settings_words
        from spiketok.training.requests import asked_training, training_request

        task, workspace = given.pop("task"), self._indexed()
        asked = asked_training(
            workspace,
            model,
            sets=settings_words(given.pop("settings")),
            tasks=[task] if isinstance(task, str) else list(task or []),
            sessions=None if sessions is None else words_of(sessions),
            hold_out=hold_out,
            told=log.info,
            **given,
        )
        return training_request(workspace, asked, asked.configured(), tokenize=tokenize, told=log.info)

    def prepare(
        self,
        model: str | None = None,
        sessions: Chosen = None,
        *,
        task: str | Sequence[str] | None = None,
        settings: Settings = None,
        hold_out: str | None = None,
        config: str | Path | None = None,
        base: str | None = None,
        tokenize: bool = False,
    ) -> Prepared:
        """One of the package's models with its batches, its loss and its score: for a loop of one's own.

        Args:
            as of :meth:`train`.
        """
        from spiketok.api.prepared import prepared

        path = None if config is None else Path(config)
        given = {"task": task, "settings": settings, "path": path, "base": base, "tokenize": tokenize}
        return prepared(self._request(model, sessions, hold_out, **given), log.info)

    def train(
        self,
        model: str | None = None,
        sessions: Chosen = None,
        *,
        task: str | Sequence[str] | None = None,
        settings: Settings = None,
        hold_out: str | None = None,
        config: str | Path | None = None,
        base: str | None = None,
        latents: str | None = None,
        vectors: str | Path | None = None,
        tokenize: bool = False,
        resume: str = "auto",
        on_event: Callable[[dict], None] | None = None,
    ) -> TrainedRun:
        """Train a model as ``spiketok train`` does; the same call goes on with an interrupted run.

        Args:
            model: its name; by default the first one that the shards of the workspace serve.
            sessions: globs, ids or sessions; all by default. hold_out: a glob of those that are left out, ``"none"``
                for none; by default, without ``sessions``, the last session of each subject that has several.
            task: questions, as ``"decode:hand_vel"``. settings: as ``--set``, ``{"optim.steps": 500}``.
            config: a TOML file. base: a run whose weights it starts from. latents: a run whose latents it learns.
            vectors: a file of vectors of units. tokenize: make the shards that are missing.
            resume: ``"auto"``, ``"must"`` or ``"never"`` go on with what an earlier call left.
            on_event: called with a dict for each logged step, checkpoint and score.

        Raises:
            UsageError, UnknownNameError: what is asked does not exist or does not go together. DataError: a shard is
                missing, or the sessions cannot serve.
        """
        from spiketok.api.runs import TrainedRun
        from spiketok.training.requests import fulfil

        if resume not in ("auto", "must", "never"):
            raise UnknownNameError("way to resume", resume, ("auto", "must", "never"))
        path = None if config is None else Path(config)
        given = {"task": task, "settings": settings, "path": path, "base": base, "latents": latents}
        given |= {"vectors": None if vectors is None else Path(vectors), "tokenize": tokenize}
        request = self._request(model, sessions, hold_out, **given)
        done = fulfil(
            self.place, request, resume=resume, told=log.info, listening=lambda run_dir: nullcontext(on_event)
        )
        return TrainedRun(done.run_dir, self.place)

    def run(self, name: str | Path | TrainedRun | None = None) -> TrainedRun:
        """A run by its name or folder, or the newest finished one of a model; the newest of all by default.

        Raises:
            UnknownNameError: there is none of this name. DataError: there is none at all.
        """
        from spiketok.api.runs import TrainedRun
        from spiketok.training.runs import find_run

        if isinstance(name, TrainedRun):
            return name
        return TrainedRun(find_run(self.place, None if name is None else str(name)), self.place)

    def runs(self) -> list[TrainedRun]:
        """The finished runs of the workspace, the oldest first."""
        from spiketok.api.runs import TrainedRun

        found = sorted(self.place.runs.glob("*/result.json"), key=lambda p: (p.stat().st_mtime, p.parent.name))
        return [TrainedRun(path.parent, self.place) for path in found]

    def evaluate(
        self,
        run: str | Path | TrainedRun | None = None,
        sessions: Chosen = None,
        *,
        protocols: Sequence[str] | None = None,
        calibration_s: float = 30.0,
        calibration: str = "first",
        repeats: int = 1,
        within: bool = False,
        settings: Settings = None,
        tokenize: bool = False,
        out: str | Path | None = None,
    ) -> Evaluation:
        """Measure transfer to sessions that the run never saw, as ``spiketok eval-xsession`` does, with its report.

        Args:
            run: its name; the newest by default. sessions: by default all that it was not trained on and that have
                what it answers.
            protocols: rows of the transfer table, as ``["zero_shot", "identity_only"]``; all that the model has by
                default.
            calibration_s: seconds that adaptation sees. calibration: where they lie: ``first``, ``spread``, ``random``.
            repeats: draws of a spread or random calibration. within: allow sessions that it was trained on.
            settings: of ``transfer.*``. tokenize: make the shards that are missing.
            out: folder of the report; ``xsession`` in the run's by default.
        """
        from spiketok.api.prepared import settings_words
        from spiketok.api.runs import evaluate

        return evaluate(
            self._indexed(),
            self.run(run),
            None if sessions is None else words_of(sessions),
            protocols=None if protocols is None else list(protocols),
            calibration_s=calibration_s,
            calibration=calibration,
            repeats=repeats,
            within=within,
            sets=settings_words(settings),
            tokenize=tokenize,
            out=None if out is None else Path(out),
            told=log.info,
        )

    # ---- making ---------------------------------------------------------------------------------------------------

    def simulate(self, **settings: object) -> Sessions:
        """Sessions with a known truth; see :func:`spiketok.simulate`."""
        from spiketok.api.making import simulate

        return simulate(root=self, **settings)

    def ingest(self, paths: str | Path | Sequence[str | Path], **options: object) -> Sessions:
        """Files into the store; see :func:`spiketok.ingest`."""
        from spiketok.api.making import ingest

        return ingest(paths, root=self, **options)

    def fetch(self, name: str, **options: object) -> Sessions:
        """A public dataset into the store; see :func:`spiketok.fetch`."""
        from spiketok.api.making import fetch

        return fetch(name, root=self, **options)

    def tokenize(self, scheme: str | Scheme | Sequence[str | Scheme], sessions: Chosen = None, **options: object):
        """Token shards of sessions; see :func:`spiketok.tokenize`."""
        from spiketok.api.making import tokenize

        return tokenize(scheme, sessions, root=self, **options)


class _Grid:
    """As much of a run's configuration as its windows are checked by."""

    def __init__(self, data: object) -> None:
        self.data = data


def words_of(chosen: Chosen) -> str:
    """Sessions that were chosen in any form, as globs with commas between them.

    Raises:
        UsageError: none is.
    """
    if isinstance(chosen, StoredSession):
        return chosen.id
    if isinstance(chosen, str):
        return chosen
    words = [one.id if isinstance(one, StoredSession) else str(one) for one in chosen or ()]
    if not words:
        message = "no session is named: give ids or globs, or leave it out for all"
        raise UsageError(message)
    return ",".join(words)


def name_of(scheme: str | Scheme) -> str:
    return scheme if isinstance(scheme, str) else scheme.name


def scheme_named(scheme: str | Scheme, fields: Mapping[str, object]) -> Scheme:
    """A scheme by its name and fields; ``bin_ms`` stands for ``bin_ns``.

    Raises:
        UnknownNameError, UsageError: there is no such scheme or field.

    >>> scheme_named("binned", {"bin_ms": 10}).bin_ns
    10000000
    """
    from spiketok.tokens.schemes import make_scheme

    if not isinstance(scheme, str):
        if fields:
            message = f"{', '.join(fields)} beside a scheme that is made ({scheme}): give its name, or set them in it"
            raise UsageError(message)
        return scheme
    fields = dict(fields)
    if "bin_ms" in fields:
        bin_ms = fields.pop("bin_ms")
        if not isinstance(bin_ms, int | float):
            message = f"bin_ms is {bin_ms!r}, expected a number"
            raise UsageError(message)
        fields["bin_ns"] = round(bin_ms * 1e6)
    return make_scheme(scheme, **fields)
