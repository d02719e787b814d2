"""Nodes of Ray on this machine, until standard input ends: `python -m tests.drills.ray_cluster`.

Prints the address of a node with one core. A line "add" adds another one, and "kill" kills the latest.
"""

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

AS_LOCAL = {"worker_niceness": 0}  # Ray's own is 15: beside other programs, its processes would hardly run

if __name__ == "__main__":
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": AS_LOCAL}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    print(cluster.address, flush=True)
    for line in sys.stdin:
        if line == "add\n":
            latest = cluster.add_node(num_cpus=1)
        else:
            cluster.remove_node(latest, allow_graceful=False)
        print("done", flush=True)
    cluster.shutdown()
