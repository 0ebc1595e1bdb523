"""The state of every image in the making, on the device, and one step of a sampler for some of them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from serving.backends.port import Seat
from serving.conditioning import Conditioning
from serving.noise import initial_noise
from serving.samplers import Table

# (sample [rows, c, h, w] fp32, timestep [rows] fp32, conditioning of each row, entry of each row) to the model's output
Network = Callable[[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], torch.Tensor], torch.Tensor]
_COLUMNS = ("timesteps", "p", "q", "a", "b", "c")


class Places:
    """`count` places and one more for rows that pad a call. Latents, tables and sampler arithmetic are fp32."""

    def __init__(self, count: int, latent: tuple[int, int, int], most_steps: int, device: torch.device, dtype: torch.dtype) -> None:
        """`latent`: channels, height, width. `dtype`: of the conditionings."""
        self.scratch, self._latent, self._most_steps, self._device, self._dtype = count, latent, most_steps, device, dtype
        self.x = torch.zeros(count + 1, *latent, device=device)
        self.estimate = torch.zeros_like(self.x)
        # zeros everywhere keep the padding at zero for ever
        self._tables = torch.zeros(count + 1, most_steps, len(_COLUMNS), device=device)
        self._guidance = torch.zeros(count + 1, 1, 1, 1, device=device)
        self._step = torch.zeros(count + 1, dtype=torch.int64, device=device)
        self.entry = torch.zeros(count + 1, dtype=torch.int64, device=device)
        self._conditioning: dict[str, torch.Tensor] = {}
        self._columns: dict[int, tuple[Table, torch.Tensor]] = {}

    def begin(self, seats: Sequence[Seat], positive: Sequence[Conditioning], negative: Sequence[Conditioning | None]) -> None:
        """Noise, tables and texts of new images; the negative text of an unguided one is None."""
        for seat, with_text, without in zip(seats, positive, negative, strict=True):
            place = seat.place
            noise = initial_noise(seat.seed, self._latent) * np.float32(seat.table.start)
            self.x[place] = self._sent(torch.from_numpy(noise))
            self.estimate[place] = 0
            self._tables[place, : seat.table.steps] = self._table(seat.table)
            self._guidance[place], self._step[place], self.entry[place] = seat.guidance, 0, seat.entry
            for name, value in with_text.items():
                kept = self._texts(name, value.shape)
                kept[place] = self._sent(torch.from_numpy(value))
                if without is not None:
                    kept[place + self.scratch + 1] = self._sent(torch.from_numpy(without[name]))

    def _texts(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name not in self._conditioning:
            self._conditioning[name] = torch.zeros(2 * (self.scratch + 1), *shape, device=self._device, dtype=self._dtype)
        return self._conditioning[name]

    def _table(self, table: Table) -> torch.Tensor:
        """float32 [steps, 6] on the device; tables are shared by many images, so they are sent once."""
        kept = self._columns.get(id(table))
        if kept is None:
            if len(self._columns) >= 256:
                self._columns.clear()
            columns = np.stack([getattr(table, name) for name in _COLUMNS], axis=1)
            kept = self._columns[id(table)] = (table, self._sent(torch.from_numpy(columns)))
        return kept[1]

    def _sent(self, value: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cpu":
            value = value.pin_memory()
        return value.to(self._device, non_blocking=True)

    def step(self, index: torch.Tensor, network: Network) -> None:
        """One network call on the rows of `index` (see `rows.arrange`), and one step of their images.

        Nothing here waits for the device or is read from it, so that a CUDA graph can hold all of it.
        """
        images, with_text, without, _, _ = index
        step = self._step[images]
        p, q, a, b, c = self._tables[images, step].T[1:, :, None, None, None]
        output = self._call(index, network).float()
        unconditioned = output[without]
        m = torch.addcmul(unconditioned, self._guidance[images], output[with_text] - unconditioned)
        x = self.x[images]
        estimate = torch.addcmul(q * m, p, x)
        x = torch.addcmul(a * x, b, estimate).addcmul_(c, self.estimate[images])
        self.x[images], self.estimate[images] = x, estimate
        self._step[images] = (step + 1).clamp_(max=self._most_steps - 1)

    def _call(self, index: torch.Tensor, network: Network) -> torch.Tensor:
        _, _, _, rows, texts = index
        timestep = self._tables[rows, self._step[rows], 0]
        conditioning = {name: kept[texts] for name, kept in self._conditioning.items()}
        return network(self.x[rows], timestep, conditioning, self.entry[rows])

    def blank(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """The inputs of a network call on nothing but padding."""
        index = torch.full((rows,), self.scratch, device=self._device)
        conditioning = {name: kept[index] for name, kept in self._conditioning.items()}
        return self.x[index], torch.zeros(rows, device=self._device), conditioning, self.entry[index]

    def rehearse(self, index: torch.Tensor, network: Network) -> None:
        """The same network call, with no effect: what a library sets up at a first call is then done."""
        self._call(index, network)
