"""The questions of how-do-i.md with their commands, and what a reader would put in the place of words in capitals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.docs.markdown import NOT_RUN

SESSION = "sub-S01_ses-CO-day01_behavior+ecephys"
RUN = '"$(ls -td "$SPIKETOK_ROOT"/runs/*/ | head -1)"'
REPORT = '"$(ls -td "$SPIKETOK_ROOT"/runs/*/xsession/report.json | head -1)"'
# Words of a page: what we put in, for every question.
WORDS = {"SESSION": SESSION, "RUN": RUN, "REPORT": REPORT, "FILES": "file.nwb", "FILE": "file.nwb", "FOLDER": "out"}
# By question: "root" a workspace of its own, "before" what a reader has done by then, "words" what stands for what,
# "code" the exit code that answers it.
GIVEN: dict[str, dict] = {
    "take-only-files-without-doubts": {"root": "strict"},
    "begin-with-the-easy-sessions": {"words": {"=listed": "=listed --set data.curriculum_epochs=1"}},
    "train-on-some-sessions-and-test-on-others": {"words": {"sub-B*": "sub-S02*"}},
    "choose-the-sessions-that-help-most-to-decode-another-one": {
        "words": {"10": "2", "FILE": '"$(ls -t "$SPIKETOK_ROOT"/choices/*.json | head -1)"'}
    },
    "average-the-rates-of-several-runs": {
        "before": "for s in 1 2; do spiketok train --model ndt1 --task population --set seed=$s; done",
        "words": {"RUN RUN ...": '$(ls -td "$SPIKETOK_ROOT"/runs/ndt1-*/ | head -2)'},
    },
    "decode-several-behaviours-or-a-choice": {
        "words": {"decode:hand_vel": "decode:cursor_vel", "classify:choice": "classify:target_dir"}
    },
    "read-what-was-written-letter-by-letter": {
        "root": "writing",
        "before": "spiketok simulate --task handwriting --subjects 1",
        "words": {"COLUMN": "symbols"},
    },
    "rename-a-session-or-take-it-away": {
        "root": "renamed",
        "before": "spiketok ingest a.nwb b.nwb",
        "words": {"OLD": "a", "NEW": "first", "GLOB": "first --yes"},  # nobody is there to be asked
    },
    "set-a-field-of-a-scheme": {"words": {"NAME": "patch"}},
    "run-a-benchmark-of-several-models-with-seeds": {"root": "benched", "words": {"smoke": "small.toml"}},
    "know-what-a-benchmark-s-server-would-say-to-my-files": {
        "words": {
            "spiketok score FILES --suite falcon|nlb21|bwb [--truth FOLDER]": "for s in falcon nlb21 bwb; do "
            "spiketok score scored/$s/said* --suite $s --truth scored/$s/true*; done"
        }
    },
    "look-at-one-session-of-a-large-dandiset-without-downloading-it": {
        "root": "streamed",
        "words": {"GLOB": "'*day02*'"},
    },
    "join-two-probes-of-one-recording-blocks-of-one-day-or-units-and-behaviour-in-two-files": {
        "root": "joined",
        "words": {"a.nwb b.nwb": "part_ecephys.nwb part_behavior.nwb", "NAME": "whole"},
    },
    "read-a-file-whose-clock-begins-again": {"root": "blocks", "words": {"FILE": "again.nwb"}},
    "choose-a-model": {"words": {"linear,poyo,ndt1": "linear,ndt1"}},
    "decode-live": {"before": "spiketok train --model poyo", "words": {"RUN": "poyo"}},
    "decode-a-new-session-live": {
        "before": "spiketok train --model poyo",
        "words": {"RUN": "poyo", "SESSION": "sub-S02_ses-CO-day02_behavior+ecephys"},
    },
    "see-what-i-trained-and-how-two-runs-differ": {
        "before": "spiketok train --model poyo --set seed=9",
        "words": {"RUN RUN": '$(ls -td "$SPIKETOK_ROOT"/runs/*/ | head -2)'},
    },
    "run-falcon-s-evaluator-on-my-run": {
        "root": "falcon",
        "before": "spiketok fetch falcon/m1 && spiketok train --model linear --task decode:preprocessed_emg --tokenize",
    },
    "delete-a-run": {"before": "spiketok train --model linear --set seed=9", "words": {"RUN": f"{RUN} --yes"}},
    "train-with-several-seeds-or-sweep-a-setting": {"words": {"1,2,3": "1,2"}},
    "know-whether-a-score-is-real-and-how-it-holds-when-the-recording-changes": {"words": {"RUN": "poyo"}},
    "decode-a-new-day-of-the-same-animal-without-a-label": {"words": {"RUN": "poyo"}},
    "give-a-longer-calibration": {"words": {"RUN": "poyo", "120": "20"}},
    "classify-by-what-follows-an-onset": {  # what it ingests has no shards, which later trainings would ask for
        "root": "onsets",
        "before": "spiketok simulate --subjects 1",
        "words": {"COLUMN": "target_dir", "TABLE": "trials"},
    },
    "fetch-only-a-part-of-a-dataset": {"root": "fetched"},
    "know-that-what-i-downloaded-is-still-what-the-archive-has": {
        "root": "fetched",
        "before": "spiketok fetch mc_maze_small",
        "words": {"NAME": "mc_maze_small"},
    },
    "use-files-of-a-catalogue-dataset-that-i-have-already": {"root": "perich", "words": {"FOLDER": "perich"}},
    "leave-out-bad-units": {"root": "units", "words": {"isi_violations": "isi_violation_fraction"}},
    "derive-a-velocity-at-100-hz": {"root": "derived", "words": {"hand_pos": "cursor_pos"}},
    "bring-in-my-own-sorting": {"root": "sorted", "words": {"FOLDER": "phy"}},
    "read-an-ibl-alf-one-session-s-folder": {"root": "alf", "words": {"SUBJECT/2023-05-06/001": "alf-session"}},
    "read-what-suite2p-wrote": {"root": "imaged", "words": {"FOLDER": "suite2p"}},
    "see-the-splits-of-a-benchmark": {"root": "fetched", "before": "spiketok fetch mc_maze_small"},
    "divide-by-trials": {  # a division is part of the session: what was made of it before is of another one
        "root": "divided",
        "before": "spiketok simulate --subjects 1",
        "words": {"NAME": SESSION, "COLUMN": "target_dir"},
    },
    "cross-validate": {"words": {"0 1 2 3 4": "0 4"}},
    "be-sure-that-no-window-reaches-from-train-into-test": {"words": {"hand_vel": "cursor_vel"}, "code": 1},
    "get-the-tensors-that-nlb-tools-or-falcon-challenge-would-give": {
        "root": "fetched",
        "before": "spiketok fetch mc_maze_small && spiketok tokenize --scheme binned --bin-ms 5 "
        "--segments trials:move_onset_time,250,450 && "
        "spiketok train --model ndt1 --task population --set data.window_ms=700 --tokenize",
    },
    "bake-a-benchmark-s-own-windows": {"words": {"NAME": "mc_maze_small"}},
    "take-a-file-of-torch-brain": {
        "root": "taken",
        "before": "spiketok ingest a.nwb && spiketok export a --to torch_brain --out h5",
        "words": {"FILE.h5": "h5/*/*.h5"},
    },
    "ingest-a-file-that-is-refused-for-its-size-in-memory": {"root": "sized"},
    "give-a-trained-model-to-others-or-take-theirs": {"words": {"hf://OWNER/NAME": "hf://lab/decoder"}},
    "train-from-shards-in-a-bucket": {
        "root": "far",
        "words": {"s3://BUCKET/FOLDER": 'file://"$PWD"/spiketok-data'},  # a URL, but of this machine
    },
}


@dataclass(frozen=True)
class Question:
    """A question: what is asked, its commands as they stand, and why they are not run."""

    name: str
    commands: tuple[str, ...]
    reason: str | None

    def typed(self, command: str) -> str:
        """A command with what a reader puts in."""
        words = WORDS | GIVEN.get(self.name, {}).get("words", {})
        for word in sorted(words, key=len, reverse=True):
            whole = rf"(?<![\w/]){re.escape(word)}(?![\w])" if word.isupper() else re.escape(word)
            command = re.sub(whole, lambda _, word=word: words[word], command)
        return command


def questions(page: Path) -> list[Question]:
    """The paragraphs that name a command, in order."""
    found, reason = [], None
    for line in page.read_text().splitlines():
        if match := NOT_RUN.fullmatch(line.strip()):
            reason = match[1]
        elif match := re.match(r"\*\*\.\.\. (.+?)\*\*", line):
            commands = tuple(
                c for c in re.findall(r"`([^`]+)`", line) if re.match(r"([A-Z_]+=\S+ )?spiketok |for \w+ in ", c)
            )
            if commands:
                name = re.sub(r"[^a-z0-9]+", "-", match[1].lower()).strip("-")
                found.append(Question(name, commands, reason))
            reason = None
    return found
