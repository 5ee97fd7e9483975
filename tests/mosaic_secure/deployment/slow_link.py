"""A cable that is slow and loses frames, as a program: ``slow_link.py NAME NAME SECONDS SHARE``.

Makes two Ethernet devices of these names and carries each frame from one to the other after so many seconds,
but for the share that is lost, both ways. For kernels without ``netem``; takes root. Ends by SIGTERM, and the
devices with it.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA  # of linux/if_tun.h, as what follows
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_LONGEST = 65536
_READY = "ready"


def main() -> None:
    first, second, delay, share = sys.argv[1:]
    ends = [_device(first), _device(second)]
    print(_READY, flush=True)
    _carry(ends, float(delay), float(share))


def _device(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return descriptor


def _carry(ends: list[int], delay: float, share: float) -> None:
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    waiting: deque[tuple[float, int, bytes]] = deque()
    draw = random.Random(0)
    while True:
        due = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for end in select.select(ends, [], [], due)[0]:
            frame = os.read(end, _LONGEST)
            if draw.random() >= share:
                waiting.append((time.monotonic() + delay, other[end], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, frame = waiting.popleft()
            try:
                os.write(end, frame)
            except OSError:  # the device is not up yet, or full: one more frame that is lost
                continue


if __name__ == "__main__":
    main()
