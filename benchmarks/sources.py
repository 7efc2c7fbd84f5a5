"""The recordings as NWB files, for the benchmarks that read sources: written by pynwb and h5py, not by spiketok."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
from recordings import CLOCK_HZ, unit_times

# how the spike times lie in the file: in one piece, as pynwb writes them; chunked and packed, as most archives do
LAYOUTS = {"contiguous": {}, "gzip": {"chunks": True, "compression": "gzip", "compression_opts": 4}}


def write_source(path: Path, size: str, layout: str, *, electrodes: bool) -> int:
    """Write the recording of that size; ``electrodes``: with a region of the electrodes table for each unit, as
    recordings have it. Returns how many spikes there are."""
    from pynwb import NWBHDF5IO, NWBFile

    times = [t / 1e9 for t in unit_times(size)]
    nwb = NWBFile(session_description="made", identifier="made", session_start_time=datetime(2020, 1, 1, tzinfo=UTC))
    if electrodes:
        group = nwb.create_electrode_group("probe", description="p", location="M1", device=nwb.create_device("array"))
        for _ in times:
            nwb.add_electrode(location="M1", group=group, group_name="probe")
        nwb.add_unit_column("quality", "of the sorting")
    for row in range(len(times)):
        facts = {"electrodes": [row], "quality": "good"} if electrodes else {}
        nwb.add_unit(spike_times=times[row][:1], **facts)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    with h5py.File(path, "r+") as file:
        units = file["units"]
        facts = dict(units["spike_times"].attrs) | {"resolution": 1 / CLOCK_HZ}
        del units["spike_times"]
        data = units.create_dataset("spike_times", data=np.concatenate(times), **LAYOUTS[layout])
        data.attrs.update(facts)
        index_facts = dict(units["spike_times_index"].attrs) | {"target": data.ref}
        del units["spike_times_index"]
        stop = np.cumsum([len(t) for t in times]).astype(np.uint32)
        units.create_dataset("spike_times_index", data=stop).attrs.update(index_facts)
    return int(stop[-1])
