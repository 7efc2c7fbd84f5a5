"""Training: which windows, batches of them, the questions that are asked (``tasks``), one loop, and what it leaves."""
