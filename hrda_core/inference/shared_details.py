"""Windows that overlap see the same details, and each detail is looked at once.

A detail's logits depend on its pixels alone, not on the window that holds it. At the usual overlap of one half every detail in
the middle of an image lies in four windows, so that an image of many windows needs less than half of the network's passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hrda_core.inference.window_network import Network, Part
from hrda_core.models.hrda import Box


class SharedDetails:
    """The windows of one image through the network, row by row.

    boxes: of the details in a window, all windows being of one size. Memory is that of the logits of a row of details.
    """

    def __init__(self, network: Network, boxes: Sequence[Box]) -> None:
        self.network = network
        self.boxes = boxes
        self._known: dict[tuple[bool, int, int], Tensor] = {}  # by view, row and column in the image

    @staticmethod
    def of(network: Network, windows: Sequence[Box]) -> SharedDetails | None:
        """None where no two windows have a detail in common, or the network only runs whole."""
        first = windows[0]
        boxes = network.detail_boxes(first.bottom - first.top, first.right - first.left)
        places = [(window.top + box.top, window.left + box.left) for window in windows for box in boxes]
        return SharedDetails(network, boxes) if len(set(places)) < len(places) else None

    def __call__(self, places: Sequence[tuple[Box, bool]], windows: Sequence[Tensor]) -> list[Tensor]:
        """Windows (N, 3, h, w), of the mirrored image where `places` says so -> their logits (N, C, h, w) float32.

        Places come in the order of `window_boxes`, over all calls.
        """
        several = torch.cat(list(windows))
        seen = self.network(several, Part.CONTEXT)
        wanted: dict[tuple[bool, int, int], Tensor] = {}
        for place, window in zip(places, windows, strict=True):
            for key, box in zip(self._keys(place), self.boxes, strict=True):
                if key not in self._known:
                    wanted[key] = window[:, :, box.top : box.bottom, box.left : box.right]
        if wanted:
            found = self.network(torch.cat(list(wanted.values())), Part.DETAIL).split(len(windows[0]))
            self._known.update(zip(wanted, found, strict=True))
        by_box = zip(*([self._known[key] for key in self._keys(place)] for place in places), strict=True)
        logits = self.network.join(seen, [torch.cat(details) for details in by_box], several)
        last = places[-1][0].top  # windows to come reach no higher
        self._known = {key: detail for key, detail in self._known.items() if key[1] >= last}
        return list(logits.split(len(windows[0])))

    def _keys(self, place: tuple[Box, bool]) -> list[tuple[bool, int, int]]:
        window, mirrored = place
        return [(mirrored, window.top + box.top, window.left + box.left) for box in self.boxes]
