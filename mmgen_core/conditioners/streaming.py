"""Whether a language model fits a device, in numbers that users can act on."""

from __future__ import annotations

GIB = 2**30
BUS_GIB_PER_SECOND = 25.0  # of PCIe 4.0, 16 lanes, in practice


def streaming_note(name: str, size: int, free: int, device: str) -> str:
    """What a language model of so many bytes means for a device with so many free ones.

    A picture reads all weights once, so streaming costs it a second; a text reads them for every
    word, so it is slow then.
    """
    numbers = f"{name}'s language model has {size / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"
    numbers += f" on {device}"
    if size <= free:
        return f"{numbers}: it stays there."
    missing = size - free
    seconds = missing / GIB / BUS_GIB_PER_SECOND
    return (
        f"{numbers}: about {missing / GIB:.1f} GiB are streamed in every pass, {seconds:.1f} s at "
        f"{BUS_GIB_PER_SECOND:.0f} GiB/s. A picture takes one pass, so keep the precision; a text "
        f"takes a pass for every token: for answers and stories choose int8 or fp8."
    )
