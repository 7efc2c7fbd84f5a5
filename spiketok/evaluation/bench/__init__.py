"""Suites: named, versioned benchmarks of models, run by one command and told in one leaderboard.

A suite is a TOML file: data, models with their settings, what is scored, seeds, and a list of what changed in it that
can move a number. ``suites/`` holds the package's own.

    suite        what a suite says, and where it is found
    data         the sessions of a track: simulated, or refused in one line where they were not fetched
    jobs         a model with a seed on a track: trained as ``spiketok train`` does, scored as ``eval-xsession`` does
    leaderboard  means, standard errors and ranks of what was scored
    pictures     ranking and calibration curves, drawn
    page         the leaderboard as one HTML file, and as markdown
"""
