"""The NWB file of a simulated session: equal settings, equal bytes.

Dates are fixed and the ids of objects follow from their places, where pynwb would take the clock and draw at random.
"""

from __future__ import annotations

import datetime
import math
import uuid
from pathlib import Path

import numpy as np

from spiketok.errors import SpiketokError
from spiketok.sources.simulator.behaviour import Trial, Writing
from spiketok.sources.simulator.cells import CELL_TYPES
from spiketok.sources.simulator.config import (
    CLOCK_HZ,
    ELECTRODES_PER_REGION,
    SAMPLE_HZ,
    TASKS,
    TICKS_PER_MS,
)
from spiketok.sources.simulator.imaging import image
from spiketok.sources.simulator.session import Simulated, session_name
from spiketok.sources.simulator.visual import Seen, add_seen
from spiketok.storage.hdf5 import writing_hdf5

DOING = {
    "center_out": "center out reaching",
    "random_target": "random target reaching",
    "handwriting": "handwriting",
    "visual": "gratings and a movie on a screen",
}


def write_nwb(session: Simulated, path: Path, fingerprint: str) -> None:
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.file import Subject

    config = session.config
    name = session_name(config, session.subject, session.day)
    hour = 10 + 4 * list(TASKS).index(config.task)
    start = datetime.datetime(2020, 1, 1, hour, tzinfo=datetime.UTC) + datetime.timedelta(days=session.day)
    subject_id = f"S{session.subject + 1:02d}"
    nwb = NWBFile(
        session_description=f"Simulated by spiketok: {DOING[config.task]}; not data of an animal",
        identifier=f"spiketok-simulation-{fingerprint}",
        session_start_time=start,
        file_create_date=start,  # fixed: the same settings give the same bytes
        session_id=name.split("_ses-")[1],
        subject=Subject(subject_id=subject_id, description="simulated subject"),
        keywords=["simulation", config.task],
    )
    if isinstance(session.behaviour, Seen):
        add_seen(nwb, session.behaviour, config.n_samples)
    else:
        _add_behaviour(nwb, session)
        add_trials = _add_writing if config.task == "handwriting" else _add_trials
        add_trials(nwb, session.behaviour.trials)
    _add_units(nwb, session)
    if config.calcium_hz:
        _add_imaging(nwb, session)
    fix_object_ids(nwb, fingerprint)
    with writing_hdf5(path) as file:
        io = NWBHDF5IO(file=file, mode="w")  # it would close the file
        io.write(nwb)


def _xy(values: np.ndarray) -> np.ndarray:
    """Complex ``[T]`` as float64 ``[T, 2]``, rounded to 0.001: the last bit of a processor's sine never shows."""
    return np.round(np.column_stack([values.real, values.imag]), 3) + 0.0  # -0.0 becomes 0.0


def _add_behaviour(nwb, session: Simulated) -> None:
    from pynwb import TimeSeries
    from pynwb.behavior import SpatialSeries

    moved = "pen" if session.config.task == "handwriting" else "cursor"
    module = nwb.create_processing_module("behavior", f"{moved} kinematics")
    n = session.config.n_samples
    common = {"rate": float(SAMPLE_HZ), "starting_time": 0.0, "comments": "columns=[x,y]"}
    position = SpatialSeries(
        name=f"{moved}_pos",
        data=_xy(session.behaviour.position[:n]),
        unit="mm",
        reference_frame="centre of the workspace",
        description=f"{moved} position",
        **common,
    )
    velocity = TimeSeries(
        name=f"{moved}_vel",
        data=_xy(session.behaviour.velocity[:n]),
        unit="mm/s",
        description=f"{moved} velocity, the central difference of the position",
        **common,
    )
    module.add(position)
    module.add(velocity)


def _add_trials(nwb, trials: list[Trial]) -> None:
    columns = {
        "target_on_time": "target appears (s)",
        "go_cue_time": "go cue (s); NaN where the subject moved before it",
        "move_onset_time": "movement begins (s)",
        "target_dir": "direction of the target from the start of the reach (rad)",
        "target_pos": "target position x, y (mm)",
        "result": "R rewarded, F target missed, A aborted",
    }
    for name, description in columns.items():
        nwb.add_trial_column(name, description)
    for trial in trials:
        times = (trial.start_s, trial.stop_s, trial.target_on_s, trial.go_cue_s, trial.move_onset_s)
        start, stop, on, go, onset = (round(time, 4) for time in times)
        nwb.add_trial(
            start_time=start,
            stop_time=stop,
            target_on_time=on,
            go_cue_time=go,
            move_onset_time=onset,
            target_dir=round(trial.direction_rad, 6),
            target_pos=_xy(np.array([trial.target]))[0],
            result=trial.result,
        )


def _add_writing(nwb, trials: list[Writing]) -> None:
    columns = {
        "target_on_time": "the text appears (s)",
        "move_onset_time": "writing begins (s)",
        "symbols": "the text that is written, a letter a symbol",
        "first_symbol": "the first letter of the text",
    }
    for name, description in columns.items():
        nwb.add_trial_column(name, description)
    for trial in trials:
        times = (trial.start_s, trial.stop_s, trial.target_on_s, trial.move_onset_s)
        start, stop, on, onset = (round(time, 4) for time in times)
        text = {"symbols": trial.symbols, "first_symbol": trial.symbols[0]}
        nwb.add_trial(start_time=start, stop_time=stop, target_on_time=on, move_onset_time=onset, **text)


def _add_units(nwb, session: Simulated) -> None:
    from hdmf.common import DynamicTableRegion, VectorData, VectorIndex
    from pynwb.misc import Units

    config, population = session.config, session.population
    device = nwb.create_device("array", description="simulated electrode arrays")
    groups = [
        nwb.create_electrode_group(name=f"array_{region}", description=region, location=region, device=device)
        for region in config.regions
    ]
    for group in groups:
        for _ in range(ELECTRODES_PER_REGION):
            nwb.add_electrode(group=group, location=group.location)

    n_units, rows = len(session.ticks), np.arange(len(session.ticks)) + 1
    gap = [ms / 1000 for ms in config.gap_ms]
    observed = [[0.0, gap[0]], [gap[1], config.duration_s]] if config.gap_s else [[0.0, config.duration_s]]
    columns = [
        ("quality", "good: one neuron; mua: two neurons taken for one"),
        ("isi_violation_fraction", "intervals below the refractory period / intervals; NaN without any"),
    ]
    values = [
        ["mua" if multi else "good" for multi in population.multi_unit],
        [_isi_violation_fraction(ticks, config.refractory_ms) for ticks in session.ticks],
    ]
    if population.cell_type is not None:
        columns += [("cell_type", "excitatory: bursts; inhibitory: regular"), ("region", "where its electrode is")]
        values += [
            [CELL_TYPES[kind] for kind in population.cell_type],
            [config.regions[region] for region in population.region],
        ]
    if config.tracked:
        columns.append(("neuron", "who it is: the same on all days of the subject"))
        values.append([f"{session.subject + 1:02d}-{neuron:05d}" for neuron in population.neuron])
    plain = [VectorData(name=n, description=d, data=v) for (n, d), v in zip(columns, values, strict=True)]
    # Whole columns, since a row at a time would make a Python object of each spike.
    stop = np.cumsum([ticks.size for ticks in session.ticks])
    seconds = np.empty(stop[-1])
    for low, high, ticks in zip(stop - [t.size for t in session.ticks], stop, session.ticks, strict=True):
        np.divide(ticks, CLOCK_HZ, out=seconds[low:high])
    spike_times = VectorData(name="spike_times", description="the spike times for each unit in seconds", data=seconds)
    obs_intervals = VectorData(
        name="obs_intervals", description="the observation intervals for each unit", data=np.array(observed * n_units)
    )
    electrodes = DynamicTableRegion(
        name="electrodes",
        description="the electrodes that each spike unit came from",
        data=population.electrode.tolist(),
        table=nwb.electrodes,
    )
    electrode_group = VectorData(
        name="electrode_group",
        description="the electrode group that each spike unit came from",
        data=[groups[region] for region in population.region],
    )
    ragged = [(spike_times, stop), (obs_intervals, rows * len(observed)), (electrodes, rows)]
    indexed = []
    for column, ends in ragged:
        index = ends.astype(np.min_scalar_type(int(ends[-1])))
        indexed += [VectorIndex(name=f"{column.name}_index", target=column, data=index), column]
    # resolution: what the standard has to declare the clock of spike times.
    nwb.units = Units(
        name="units",
        description="simulated units",
        resolution=1 / CLOCK_HZ,
        id=list(range(n_units)),
        columns=[*plain, *indexed, electrode_group],
        colnames=[*(c.name for c in plain), *(column.name for column, _ in ragged), electrode_group.name],
    )


def _add_imaging(nwb, session: Simulated) -> None:
    """dF/F of the units as ``processing/ophys/DfOverF/fluorescence``, an ROI a unit with its id."""
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries

    config = session.config
    key = (session.subject, session.day, list(TASKS).index(config.task))
    frame_s, value = image(config, session.population, session.ticks, key)
    green = OpticalChannel(name="green", description="simulated", emission_lambda=510.0)
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=green,
        description="simulated field of view",
        device=nwb.create_device("microscope", description="simulated two-photon microscope"),
        excitation_lambda=920.0,
        imaging_rate=config.calcium_hz,
        indicator="GCaMP6f",
        location=", ".join(config.regions),
    )
    module = nwb.create_processing_module("ophys", "dF/F of the units")
    segmentation = ImageSegmentation()
    module.add(segmentation)
    rois = segmentation.create_plane_segmentation(name="units", description="one ROI a unit", imaging_plane=plane)
    for row in range(len(session.ticks)):
        rois.add_roi(pixel_mask=[(row, 0, 1.0)])
    series = RoiResponseSeries(
        name="fluorescence",
        data=value,
        unit="dF/F",
        rois=rois.create_roi_table_region("the units, in the order of the units table", region=slice(None)),
        timestamps=frame_s,
        description="dF/F of each unit: its spikes through the kernel of GCaMP6f, and noise",
    )
    responses = DfOverF()
    module.add(responses)
    responses.add_roi_response_series(series)


def _isi_violation_fraction(ticks: np.ndarray, refractory_ms: float) -> float:
    if ticks.size < 2:
        return math.nan
    return float(np.mean(np.diff(ticks) < refractory_ms * TICKS_PER_MS))


def fix_object_ids(nwb, fingerprint: str) -> None:
    """Give each NWB object an id that follows from its place in the file, instead of the random one that it has.

    hdmf has no public way to say an id at construction: the name is that of its private attribute.
    """
    attribute = "_AbstractContainer__object_id"
    stack = [(nwb, "root")]
    while stack:
        item, place = stack.pop()
        if not hasattr(item, attribute):
            fact = f"{type(item).__name__} of the installed hdmf has no '{attribute}', so object ids would be random"
            message = f"{fact}: install the hdmf that constraints.txt names"
            raise SpiketokError(message)
        setattr(item, attribute, str(uuid.uuid5(uuid.NAMESPACE_OID, f"{fingerprint}/{place}")))
        stack += [(child, f"{place}/{type(child).__name__}:{child.name}") for child in item.children]
