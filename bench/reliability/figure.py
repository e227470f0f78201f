"""What a run found, and under which conditions."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Figure:
    """The figures of one row of the table of promises. `faults` must all be zero."""

    row: str
    what: str
    seed: int
    command: str
    counts: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    starved: int = 0
    """What failed while the bench itself got no processor, which says nothing of others."""
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    """The first faults in words."""

    @property
    def is_kept(self) -> bool:
        return not (any(self.faults.values()) or self.starved)

    @property
    def verdict(self) -> str:
        if any(self.faults.values()):
            return "BROKEN"
        return "INVALID, the machine was too busy to tell" if self.starved else "kept"

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {value:,.6g}" for name, value in self.counts.items())
        starved = {"failed while starved": self.starved} if self.starved else {}
        faults = ", ".join(f"{name} {value}" for name, value in {**self.faults, **starved}.items())
        lines = [
            f"row {self.row}: {self.what}: {self.verdict}",
            f"    {counts}",
            f"    {faults}",
            f"    {self.seconds:.0f} s, seed {self.seed}: {self.command}",
        ]
        notes = [] if self.is_kept else self.notes[-10:]
        return "\n".join(lines + [f"    {note[:2000]}" for note in notes])
