"""Nodes of Ray on this machine, until standard input ends: `python -m tests.drills.ray_cluster`.

Prints the address of a node with one core. Each line of the input adds a node with one core.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.add_node(num_cpus=1)
        print("added", flush=True)
    cluster.shutdown()
