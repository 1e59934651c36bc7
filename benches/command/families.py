"""All loads and ratios, family by family, in the order of measurement and report."""

from . import channels, cluster, costs, django, groups, inside, rooms, server

FAMILIES = [channels, groups, cluster, server, rooms, django, inside, costs]
LOADS = [load for family in FAMILIES for load in family.LOADS]
RATIOS = [ratio for family in FAMILIES for ratio in family.RATIOS]
