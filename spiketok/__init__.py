"""spiketok: from public recordings of spiking neurons to exact tokens, trained decoders and cross-session scores."""

__version__ = "0.1.0"
