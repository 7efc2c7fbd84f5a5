"""Our models against the original code of each: weights, inputs and outputs in files, and how to replay them.

A golden file (``.npz``) holds the original's weights (``w/``), inputs (``in/``), outputs (``out/``), losses
(``loss/``), gradients (``grad/``, or their norms in ``mid/grad_norm/``) and ``meta``, a JSON text with the original's
configuration. A module of this package says by ``replay(golden, meta) -> dict`` what our code gives for it, under the
same keys; ``LEFT_OUT`` there names the keys that ours cannot give, each with a reason, and ``NO_EFFECT``, where it is
needed, the weights that change nothing in the original.

``python -m tests.references FOLDER`` replays every file below a folder.
"""

from __future__ import annotations

# The beginning of a file's name -> the module that replays it; the longest that fits counts.
REPLAYS = {
    "mtm": "tests.references.mtm",
    "lfads": "tests.references.lfads",
    "ndt1": "tests.references.ndt1",
    "ndt2": "tests.references.ndt2",
    "poyo_tiny": "tests.references.poyo",
    "sparse_lamb_onecycle": "tests.references.optimizer",
    "spint": "tests.references.spint",
    "stndt": "tests.references.stndt",
    "ndt3": "tests.references.ndt3",
    "neds": "tests.references.neds",
    "poyo_plus": "tests.references.poyo_plus",
    "capoyo": "tests.references.capoyo",
    "torch_brain_losses": "tests.references.torch_brain_losses",
    "ldns": "tests.references.ldns",
    "block_s4_dplr": "tests.references.ldns",
    "possm": "tests.references.possm",
    "block_s4d": "tests.references.possm_layers",
    "block_mamba": "tests.references.possm_layers",
    "ctc_head": "tests.references.possm_layers",
    "neuroformer": "tests.references.neuroformer",
    "nuclr": "tests.references.nuclr",
    "apst": "tests.references.apst",
    "bwb_mtm": "tests.references.stitched",
    "bwb_ndt_stitch": "tests.references.stitched",
}
