"""Every kind of fault, by name (see DESIGN.md).

Owns: the table.
Invariants: a nemesis's name is its key; `make_nemeses` gives new ones, because each remembers its victims.
"""

from __future__ import annotations

from collections.abc import Mapping

from chaos.nemeses import clocks, disks, power
from chaos.nemeses.awakening import LeaderWakesAlone
from chaos.nemeses.links import KINDS, BadLinks
from chaos.nemeses.membership import MemberReplaced
from chaos.nemeses.partitions import SHAPES, Partition
from chaos.nemeses.processes import FallBehind, Kill, Pause, RollingRestart
from chaos.seams import Nemesis


def make_nemeses() -> dict[str, Nemesis]:
    made: list[Nemesis] = [
        *(Kill(whom) for whom in ("one", "leader", "minority", "majority", "all")),
        *(Pause(whom) for whom in ("one", "leader")),
        RollingRestart(),
        FallBehind(),
        *(Partition(shape) for shape in SHAPES),
        LeaderWakesAlone(),
        *(BadLinks(kind) for kind in KINDS),
        MemberReplaced(),
        *disks.make(),
        *clocks.make(),
        *power.make(),
    ]
    return {nemesis.name: nemesis for nemesis in made}


NEMESES: Mapping[str, Nemesis] = make_nemeses()
