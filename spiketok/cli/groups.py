"""Names of the catalogue that are known without reading it: its datasets, and groups of them.

A test holds both against the catalogue, whose import takes numpy and h5py.
"""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "nlb": ("mc_maze", "mc_maze_large", "mc_maze_medium", "mc_maze_small", "mc_rtt", "area2_bump", "dmfc_rsg"),
    "falcon": ("falcon_h1", "falcon_h2", "falcon_m1", "falcon_m1b", "falcon_m2", "falcon_b1"),
    "allen": ("allen_visual_coding", "allen_functional_connectivity", "allen_visual_behavior"),
}
DATASETS: tuple[str, ...] = (
    *(name for group in GROUPS.values() for name in group),
    *("perich_miller", "churchland", "odoherty_sabes", "link", "steinmetz", "ibl", "ibl_bwb", "ibl_bwb_selected"),
)


def expanded(names: list[str]) -> list[str]:
    """Names with each group's in its place, each once; a file or folder of a group's name is that."""
    from pathlib import Path

    found = [one for name in names for one in (GROUPS.get(name, (name,)) if not Path(name).exists() else (name,))]
    return list(dict.fromkeys(found))
