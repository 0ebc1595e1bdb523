"""The adapters of one network, laid out as the banks that its graph takes as inputs."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from serving.backends.onnx.surgery import Site

Array = NDArray[np.float32]
Factors = tuple[Array, Array]


class Banks:
    """`arrays` by the graph's inputs, each [entries, …]. Entry 0 is no adapter and stays zero.

    Entries that were never used are pages that were never touched, so they take no memory. Ranks are padded to a power of two,
    the largest among the layers that share a bank.
    """

    def __init__(self, sites: Mapping[str, Site], entries: int, before: "Banks | None" = None) -> None:
        """`entries` with 0 among them. What lies in `before`, whose sites are all among `sites`, is taken over."""
        self.sites, self._entries = dict(sites), entries
        self._ranks = {site.down: 1 for site in sites.values()}
        self._used: dict[int, set[str]] = {}
        self.arrays: dict[str, Array] = {}
        if before:
            self._used = before._used
            for module, site in before.sites.items():
                self._ranks[sites[module].down] = max(self._ranks[sites[module].down], before._ranks[site.down])
        for site in sites.values():
            old = before.sites.get(site.module) if before else None
            self._lay(site)
            if before and old:
                self._take(site, old, before._ranks[old.down], before.arrays)

    @property
    def entry_bytes(self) -> int:
        """What one entry takes."""
        return sum(array[0].nbytes for array in self.arrays.values())

    def attach(self, entry: int, factors: Mapping[str, Factors]) -> None:
        """Put `down` [rank, inputs · taps] and `up` [outputs, rank] of each module into `entry` ≥ 1, over what was there."""
        for module in self._used.get(entry, set()) - set(factors):
            self._down(self.sites[module], self.arrays)[entry], self.arrays[self.sites[module].up][entry] = 0, 0
        for module, (down, _) in factors.items():
            self._widen(self.sites[module].down, len(down))
        for module, (down, up) in factors.items():
            site, rank = self.sites[module], len(down)
            into, grown = self._down(site, self.arrays)[entry], self.arrays[site.up][entry]
            into[...], grown[...] = 0, 0
            if site.kind == "conv":
                # the taps of a kernel from its end: see surgery
                taps = down.reshape(rank, site.inputs, site.taps)[:, :, ::-1].transpose(0, 2, 1)
                into[: rank * site.taps] = taps.reshape(-1, site.inputs)
                grown[:, :rank] = up
            else:
                into[:, :rank] = down.T
                grown[:rank] = up.T
        self._used[entry] = set(factors)

    def _widen(self, down: str, rank: int) -> None:
        """Ranks of up to `rank` in the bank `down` and those of B that go with it."""
        before = self._ranks[down]
        if rank <= before:
            return
        self._ranks[down] = 1 << (rank - 1).bit_length()
        sharing = [site for site in self.sites.values() if site.down == down]
        old = {name: self.arrays[name] for site in sharing for name in (site.down, site.up)}
        for site in sharing:
            self._lay(site)
            self._take(site, site, before, old)

    def _lay(self, site: Site) -> None:
        rank = self._ranks[site.down]
        for name, shape in ((site.down, site.down_shape(rank)), (site.up, site.up_shape(rank))):
            if name not in self.arrays or self.arrays[name].shape[1:] != shape:
                self.arrays[name] = np.zeros((self._entries, *shape), np.float32)

    def _take(self, site: Site, old: Site, rank: int, arrays: Mapping[str, Array]) -> None:
        """Copy the module's part of the used entries from `arrays`, which hold it as `old` at `rank`."""
        into, source = self._down(site, self.arrays), self._down(old, arrays, rank)
        up, up_source = self.arrays[site.up], arrays[old.up]
        for entry in (entry for entry, modules in self._used.items() if site.module in modules):
            into[entry][tuple(slice(size) for size in source.shape[1:])] = source[entry]
            up[entry][tuple(slice(size) for size in up_source.shape[1:])] = up_source[entry]

    def _down(self, site: Site, arrays: Mapping[str, Array], rank: int | None = None) -> Array:
        """The module's own part of its bank of A: [entries, inputs, rank], of convolutions [entries, rank · taps, inputs]."""
        if site.kind == "conv":
            return arrays[site.down][:, 0]
        rank = rank or self._ranks[site.down]
        return arrays[site.down][:, :, site.position * rank : (site.position + 1) * rank]
