"""Live calls into text: WebRTC audio in, every word out once, with its time."""

__version__ = "0.1.0"
