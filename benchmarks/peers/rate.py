"""How many in how long."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rate:
    """So many conversations ended in so many seconds, and how far it was at which moment where that was noted."""

    ended: int
    seconds: float
    curve: list[tuple[float, int]] = field(default_factory=list)

    @property
    def per_second(self) -> float:
        """Return conversations a second."""
        return self.ended / self.seconds if self.seconds else 0.0
