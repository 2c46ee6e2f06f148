"""Colours and sizes of figures and reports."""

PAPER = "#fbfaf7"
INK = "#24272c"
MUTED = "#666b73"
LINE = "#d8d5cd"
ACCENT = "#1d6f7a"
FLAW = "#e5264b"  # for NaN pixels and failed runs
SERIES = ("#2f7fb8", "#dd7430", "#3d9a6a", "#9b62b5", "#c44f6d", "#8b7d3a")  # legible on a light and on a dark page


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers in 0..255."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
