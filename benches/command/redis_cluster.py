"""A Redis Cluster on free ports, whose slots and masters can be moved."""

import contextlib
import time

from .children import Failed, end
from .redis_server import RedisServer, free_port

SLOTS = 16_384
# The time without an answer after which the nodes replace a master.
NODE_TIMEOUT_MS = 2000
DEADLINE = 60
# After this time a planned failover has either succeeded or ended.
FAILOVER_SECONDS = 6


class Node(RedisServer):
    cluster = True

    def __init__(self):
        self.bus = free_port()
        super().__init__(
            *("--cluster-enabled", "yes", "--cluster-port", str(self.bus)),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-allow-replica-migration", "no"),
            *("--repl-diskless-sync-delay", "0"),
        )
        self.id = self.client.call("CLUSTER", "MYID")

    def is_master(self):
        return self.info("replication")["role"] == "master"

    def move_slot(self, slot, target):
        """Moves a slot with its keys to another node, as `redis-cli --cluster reshard` does."""
        target.client.call("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id)
        self.client.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        while keys := self.client.call("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.client.call("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        # The target goes first, so that the slot has an owner at any time.
        for node in (target, self):
            node.client.call("CLUSTER", "SETSLOT", slot, "NODE", target.id)


class RedisCluster:
    """Masters with equal shares of the slots, and `replicas` of each."""

    cluster = True

    def __init__(self, masters, replicas=0):
        self.stack = contextlib.ExitStack()
        with self.stack:
            self.masters = [self.stack.enter_context(Node()) for _ in range(masters)]
            self.replicas = [self.stack.enter_context(Node()) for _ in range(masters * replicas)]
            self._join()
            self.stack = self.stack.pop_all()

    def _join(self):
        first, *others = self.masters + self.replicas
        for number, node in enumerate(self.masters):
            begin, end_ = (SLOTS * part // len(self.masters) for part in (number, number + 1))
            node.client.call("CLUSTER", "ADDSLOTSRANGE", begin, end_ - 1)
            node.client.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in others:
            node.client.call("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus)
        everyone = len(others) + 1
        self.wait("all nodes know each other", lambda node: int(cluster_info(node)["cluster_known_nodes"]) == everyone)
        for number, replica in enumerate(self.replicas):
            replica.client.call("CLUSTER", "REPLICATE", self.masters[number % len(self.masters)].id)
        self.wait("all slots are served", serves)
        self.wait("all replicas follow", lambda node: node not in self.replicas or follows(node))

    def wait(self, what, holds):
        deadline = time.monotonic() + DEADLINE
        while not all(holds(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise Failed(f"redis-server: not true after {DEADLINE} s: {what}")
            time.sleep(0.05)

    @property
    def nodes(self):
        return [node for node in self.masters + self.replicas if node.process.poll() is None]

    @property
    def url(self):
        return self.masters[0].url

    def clear(self):
        for node in self.nodes:
            if node.is_master():
                node.clear()

    def processor_micros(self):
        """Returns the processor time that each master has used since its start."""
        return [node.processor_micros() for node in self.nodes if node.is_master()]

    def move_slots(self, slots, source, target):
        for slot in slots:
            self.masters[source].move_slot(slot, self.masters[target])

    def fail_over(self, number):
        """Makes the replica of a master its master, as planned, and waits until the former master follows it."""
        replica, master = self.replicas[number], self.masters[number]
        self.masters[number], self.replicas[number] = replica, master
        # The others vote only when they know the slots of the replica, and twice about a master only after a pause of
        # two node timeouts. A failover without enough votes ends after 5 s.
        deadline = time.monotonic() + DEADLINE
        while not replica.is_master():
            if time.monotonic() > deadline:
                raise Failed(f"redis-server: no planned failover within {DEADLINE} s")
            with contextlib.suppress(Failed):
                replica.client.call("CLUSTER", "FAILOVER")
            pause = time.monotonic() + FAILOVER_SECONDS
            while not replica.is_master() and time.monotonic() < pause:
                time.sleep(0.05)
        self.wait("the former master follows", lambda node: node is not master or follows(node))
        self.wait("all slots are served", serves)

    def kill(self, number):
        """Kills a master, and waits until its replica serves its slots."""
        replica = self.replicas[number]
        end(self.masters[number].process)
        self.wait("the replica is the master", lambda node: node is not replica or node.is_master())
        self.wait("all slots are served", serves)

    def close(self):
        self.stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def cluster_info(node):
    lines = node.client.call("CLUSTER", "INFO").decode().splitlines()
    return dict(line.split(":", 1) for line in lines)


def serves(node):
    found = cluster_info(node)
    return found["cluster_state"] == "ok" and int(found["cluster_slots_ok"]) == SLOTS


def follows(node):
    found = node.info("replication")
    return found["role"] == "slave" and found["master_link_status"] == "up"
