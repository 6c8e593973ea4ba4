"""Types of exactly the part of pysyncobj 0.3.17 that this package touches."""

from .syncobj import SyncObj as SyncObj
from .syncobj import SyncObjConf as SyncObjConf
