"""Distributed file systems for several gateways, started from Debian's packages in a network namespace of their own."""

from harness.engines.ceph import Ceph
from harness.engines.gluster import Gluster
from harness.engines.local import Local
from harness.engines.moosefs import MooseFS

ENGINES = {"ceph": Ceph, "gluster": Gluster, "moosefs": MooseFS, "local": Local}
__all__ = ["ENGINES", "Ceph", "Gluster", "Local", "MooseFS"]
