"""The task ``visual``: an animal that runs as it likes sees drifting gratings and a short movie, on a grey screen.

A cycle of 10 s: gratings of the 8 directions in random order, each 0.5 s and 0.3 s of grey behind it; then a movie of
3 s, always the same, and 0.6 s of grey. The screen has 32 x 32 pixels and 20 frames a second.

The latent state follows the screen by 50 ms: whether a grating is there, its direction and its orientation (as points
on circles), how bright the movie is in each quarter of the screen; and how fast the animal runs. Neurons are tuned to
orientation, less so to direction, and to some part of the movie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spiketok.sources.simulator.config import SAMPLE_HZ, SimulationConfig
from spiketok.sources.simulator.kernels import compiled
from spiketok.sources.simulator.streams import HAND, TASK, VISUAL, stream, white_noise

if TYPE_CHECKING:
    from spiketok.sources.simulator.population import Population

FRAME_HZ, SIDE = 20, 32
SAMPLES_PER_FRAME = SAMPLE_HZ // FRAME_HZ
N_DIRECTIONS, GRATING_FRAMES, GAP_FRAMES = 8, 10, 6
MOVIE_FRAMES, REST_FRAMES = 60, 12
DRIFT_HZ, GRATING_PERIODS = 2.0, 3  # of the gratings: periods a second at a point, and across the screen
GREY = N_DIRECTIONS * GRATING_FRAMES + MOVIE_FRAMES  # the row of the grey frame, behind gratings and movie
DELAY_SAMPLES, SMOOTH_S = 5, 0.03  # from the screen to the neurons
RUN_TAU_S, RUN_CM_S = 1.0, 12.0
ORIENTATION_GAIN, DIRECTION_SHARE, MOVIE_SHARE = 1.5, 0.4, 0.8  # of a neuron's tuning depth

LATENT = ["grating", "direction_x", "direction_y", "orientation_x", "orientation_y"]
LATENT += [f"movie_{quarter + 1}" for quarter in range(4)] + ["running"]


@dataclass(frozen=True)
class Showing:
    """One grating, or one run of the movie (direction -1)."""

    start_s: float
    stop_s: float
    direction: int


@dataclass(frozen=True, eq=False)
class Seen:
    """What was on the screen, and how the animal ran."""

    frames: np.ndarray  # uint8 [F, SIDE, SIDE]
    frame: np.ndarray  # int64 [P] which of them is on the screen, FRAME_HZ a second
    running: np.ndarray  # float64 [T] cm/s at SAMPLE_HZ
    trials: list[Showing]  # gratings
    movies: list[Showing]


def screen_frames() -> np.ndarray:
    """uint8 ``[F, SIDE, SIDE]``: each direction's frames, the movie's, and grey."""
    at = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    x, y = np.meshgrid(at, -at)
    frames = []
    for direction in range(N_DIRECTIONS):
        angle = 2 * np.pi * direction / N_DIRECTIONS
        along = x * math.cos(angle) + y * math.sin(angle)
        for k in range(GRATING_FRAMES):
            frames.append(0.5 + 0.5 * np.sin(2 * np.pi * (GRATING_PERIODS * along - DRIFT_HZ * k / FRAME_HZ)))
    for k in range(MOVIE_FRAMES):  # two spots of light that circle, one the other way and twice as fast
        turn = 2 * np.pi * k / MOVIE_FRAMES
        spots = [(0.3 * np.exp(1j * turn), 0.15), (0.25 * np.exp(-2j * turn), 0.1)]
        light = sum(np.exp(-(np.abs(x + 1j * y - place) ** 2) / (2 * width**2)) for place, width in spots)
        frames.append(np.minimum(0.2 + 0.7 * light, 1.0))
    frames.append(np.full((SIDE, SIDE), 0.5))
    return np.round(np.round(np.array(frames), 6) * 255).astype(np.uint8)


def _showings(rng: np.random.Generator) -> Iterator[tuple[Showing, list[int]]]:
    """Gratings and movies without end, each with the frames from its first to the next one's first."""
    now = 0
    while True:
        for direction in rng.permutation(N_DIRECTIONS).tolist():
            shown = [direction * GRATING_FRAMES + k for k in range(GRATING_FRAMES)]
            yield Showing(now / FRAME_HZ, (now + GRATING_FRAMES) / FRAME_HZ, direction), shown + [GREY] * GAP_FRAMES
            now += GRATING_FRAMES + GAP_FRAMES
        shown = [N_DIRECTIONS * GRATING_FRAMES + k for k in range(MOVIE_FRAMES)]
        yield Showing(now / FRAME_HZ, (now + MOVIE_FRAMES) / FRAME_HZ, -1), shown + [GREY] * REST_FRAMES
        now += MOVIE_FRAMES + REST_FRAMES


def see(config: SimulationConfig, key: tuple[int, int, int]) -> Seen:
    """What is shown in a session, and how the animal runs."""
    n_frames = math.ceil(config.n_samples / SAMPLES_PER_FRAME)
    shown, trials, movies = [], [], []
    for showing, frames in _showings(stream(config, TASK, *key)):
        if len(shown) >= n_frames:
            break
        shown += frames
        if showing.stop_s <= config.duration_s:
            (movies if showing.direction < 0 else trials).append(showing)
    keep = math.exp(-1 / (SAMPLE_HZ * RUN_TAU_S))
    noise = white_noise(stream(config, HAND, *key), config.n_samples + 1) * math.sqrt(1 - keep**2)
    running = RUN_CM_S * np.maximum(compiled().recur(keep, noise).real, 0)
    return Seen(screen_frames(), np.array(shown[:n_frames]), running, trials, movies)


def seen_state(config: SimulationConfig, seen: Seen) -> np.ndarray:
    """The latent state, float64 ``[T + 1, D]`` at ``SAMPLE_HZ``, named by ``LATENT``."""
    n, half = config.n_samples + 1, SIDE // 2
    frames = seen.frames / 255 - 0.5
    feature = np.zeros((len(frames), len(LATENT) - 1))
    angle = 2 * np.pi * (np.arange(GREY) // GRATING_FRAMES)[: N_DIRECTIONS * GRATING_FRAMES] / N_DIRECTIONS
    circles = [np.ones(angle.size), np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]
    feature[: angle.size, :5] = np.column_stack(circles)
    movie = frames[angle.size : GREY].reshape(MOVIE_FRAMES, 2, half, 2, half).mean(axis=(2, 4)).reshape(-1, 4)
    feature[angle.size : GREY, 5:] = (movie - movie.mean(axis=0)) / movie.std(axis=0)
    at = (np.arange(n) - DELAY_SAMPLES) // SAMPLES_PER_FRAME
    drive = np.where(at[:, None] >= 0, feature[seen.frame[np.clip(at, 0, len(seen.frame) - 1)]], 0.0)
    keep = math.exp(-1 / (SAMPLE_HZ * SMOOTH_S))
    smooth = [compiled().recur(keep, (1 - keep) * column.astype(np.complex128)).real for column in drive.T]
    return np.column_stack([*smooth, seen.running / RUN_CM_S])


def tuned(config: SimulationConfig, population: Population, subject: int) -> Population:
    """The population with loadings on what is seen in place of those on movements; drift turns all preferences."""
    rows = []
    for neuron, turned, log_gain in zip(population.neuron, population.turned_rad, population.log_gain, strict=True):
        rng = stream(config, VISUAL, subject, int(neuron))
        preferred = 2 * np.pi * rng.random() + turned
        depth = config.tuning_depth * ORIENTATION_GAIN * math.exp(0.25 * rng.standard_normal() + log_gain)
        direction = DIRECTION_SHARE * depth
        loading = [0.3 + 0.2 * rng.standard_normal(), direction * math.cos(preferred), direction * math.sin(preferred)]
        loading += [depth * math.cos(2 * preferred), depth * math.sin(2 * preferred)]
        loading += (MOVIE_SHARE * depth / 2 * rng.standard_normal(4)).tolist()
        rows.append([*loading, 0.15 + 0.1 * rng.standard_normal()])
    return replace(population, loading=np.array(rows).reshape(-1, len(LATENT)))


def add_seen(nwb, seen: Seen, n_samples: int) -> None:
    """The screen as an index series into its frames, gratings as trials with their class, movies as a table."""
    from pynwb import TimeSeries
    from pynwb.base import ImageReferences, Images
    from pynwb.image import GrayscaleImage, IndexSeries

    pictures = [GrayscaleImage(name=f"frame{k:03d}", data=frame) for k, frame in enumerate(seen.frames)]
    order = ImageReferences(name="order_of_images", data=pictures)
    words = "gratings of 8 directions, 10 frames each; the movie, 60 frames; grey"
    template = Images(name="frames", images=pictures, order_of_images=order, description=words)
    nwb.add_stimulus_template(template)
    common = {"rate": float(FRAME_HZ), "starting_time": 0.0, "unit": "N/A"}
    shown = seen.frame.astype(np.uint32)
    nwb.add_stimulus(
        IndexSeries(name="screen", data=shown, indexed_images=template, description="what is on the screen", **common)
    )
    running = TimeSeries(
        name="running_speed",
        data=np.round(seen.running[:n_samples], 3) + 0.0,
        unit="cm/s",
        description="how fast the animal runs",
        rate=float(SAMPLE_HZ),
        starting_time=0.0,
    )
    nwb.create_processing_module("behavior", "running").add(running)
    nwb.add_trial_column("direction", "in which the grating drifts (degrees, as text: a class)")
    nwb.add_trial_column("orientation", "of its stripes' normal (degrees, as text: a class)")
    for trial in seen.trials:
        degrees = 360 * trial.direction // N_DIRECTIONS
        nwb.add_trial(
            start_time=trial.start_s,
            stop_time=trial.stop_s,
            direction=f"{degrees:03d}",
            orientation=f"{degrees % 180:03d}",
        )
    movies = nwb.create_time_intervals("movies", "runs of the movie")
    for movie in seen.movies:
        movies.add_interval(start_time=movie.start_s, stop_time=movie.stop_s)
