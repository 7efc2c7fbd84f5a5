"""Imaged units: their fluorescence as a RoiResponseSeries of a segmentation with one row a unit.

Of an imaged session without spikes the segmentation is the units table: its rows are the units, with their columns.
What NWB demands of a microscope and a session does not know is written as "not stated" and NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spiketok.recording.nouns import FLUORESCENCE, Session

if TYPE_CHECKING:
    from hdmf.common import VectorData
    from pynwb import NWBFile

NOT_STATED = "not stated"


def is_imaged_only(session: Session) -> bool:
    """Whether the units are known by their fluorescence alone."""
    signal = session.signals.get(FLUORESCENCE)
    return not len(session.spikes) and signal is not None and list(signal.components) == session.units.id.tolist()


def add_imaging(
    nwb: NWBFile,
    session: Session,
    ids: np.ndarray,
    columns: Sequence[VectorData],
    colnames: Sequence[str],
    timing: dict,
) -> None:
    """Put the signal ``fluorescence`` into ``processing/ophys``.

    Args:
        nwb: takes it. session: has such a signal.
        ids: of the ROIs, one a component. columns, colnames: of the segmentation.
        timing: ``timestamps``, or ``rate`` and ``starting_time``.
    """
    from hdmf.common import VectorData, VectorIndex
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, PlaneSegmentation, RoiResponseSeries

    signal = session.signals[FLUORESCENCE]
    channel = OpticalChannel(name="channel", description=NOT_STATED, emission_lambda=np.nan)
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description=NOT_STATED,
        device=nwb.create_device("microscope", description=NOT_STATED),
        excitation_lambda=np.nan,
        indicator=NOT_STATED,
        location=NOT_STATED,
    )
    # a mask is demanded: one pixel of no weight
    masks = VectorData(name="pixel_mask", description="not known", data=[(0, 0, 0.0)] * len(ids))
    index = VectorIndex(name="pixel_mask_index", target=masks, data=np.arange(1, len(ids) + 1))
    rois = PlaneSegmentation(
        name="rois",
        description="one ROI a component of the series; where they lie is not known",
        imaging_plane=plane,
        id=ids.astype(np.int64),
        columns=[*columns, index, masks],
        colnames=[*colnames, masks.name],
    )
    module = nwb.create_processing_module("ophys", "fluorescence of the units")
    module.add(ImageSegmentation(plane_segmentations=[rois]))
    value = np.where(signal.valid[:, None], signal.value, np.float32(np.nan))
    series = RoiResponseSeries(
        name=FLUORESCENCE,
        data=value,
        unit=signal.measure,
        rois=rois.create_roi_table_region("all rows, in order", region=list(range(len(ids)))),
        description="fluorescence; NaN where it was not measured",
        **timing,
    )
    module.add(DfOverF(roi_response_series=[series]))
