"""From bytes to a bill of materials: devices, servers, hosts, network, power, money, failures."""

from memscape.cluster.bill import Cluster, cluster
from memscape.cluster.money import Offer
from memscape.cluster.placement import RESERVE_PERCENT, Fit, Place, fewest_devices, room_of, smallest_fits
from memscape.cluster.sizing import Line, Rule, Server, rule

__all__ = [
    "RESERVE_PERCENT",
    "Cluster",
    "Fit",
    "Line",
    "Offer",
    "Place",
    "Rule",
    "Server",
    "cluster",
    "fewest_devices",
    "room_of",
    "rule",
    "smallest_fits",
]
