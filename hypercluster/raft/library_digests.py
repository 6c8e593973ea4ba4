"""What the library looked like when the overrides were written: its version and the hash of each method's source.

Owns: numbers that `guard.verify_library` compares. A new release of pysyncobj is adopted by reading its changes
first, then writing these anew; never the other way round.
"""

from __future__ import annotations

from typing import Final

VERSION_PINNED: Final = "0.3.17"

SOURCE_DIGESTS: Final[dict[str, str]] = {
    "__init__": "09df12cd7fd7d7270fee82c1",
    "_onTick": "cc9eb08232d005ba4e21a33e",
    "doTick": "bef78c2ba06d784beb0d5567",
    "destroy": "2d032c9fe266b3cdb01517f8",
    "_doDestroy": "8a6c9f892614a4b90a312b65",
    "_applyCommand": "827f207d515b2d64cce9033f",
    "_checkCommandsToApply": "a386a8079361d204f2c11f89",
    "_SyncObj__applyLogEntries": "073db677773b5a2dddf17cc5",
    "_SyncObj__onMessageReceived": "ddfe34b6c02821795146dc53",
    "_SyncObj__sendAppendEntries": "9cb9073128c392fa9e5efc46",
    "_SyncObj__sendNextNodeIdx": "68aaeefc267b8896bc107428",
    "_SyncObj__onBecomeLeader": "5a3fd97bc17dc1cf3070b007",
    "_SyncObj__setCurrentTerm": "0ad5bf456ac06bd314d2dbc8",
    "_SyncObj__setState": "2c1f239f7bd79b3945b63418",
    "_SyncObj__onLeaderChanged": "53b7685e1d897887fe7d32a7",
    "_SyncObj__generateRaftTimeout": "92ed37d3620e781a15680bc5",
    "_SyncObj__getCurrentLogIndex": "e5af22ca246686bdc5fd2bd9",
    "_SyncObj__getCurrentLogTerm": "1cb8867e6a13d3976c07506c",
    "_SyncObj__getPrevLogIndexTerm": "6766914806ae2311c345dc63",
    "_SyncObj__getEntries": "e29c4b33293b21018d1124c7",
    "_SyncObj__deleteEntriesFrom": "3b23c411bb903d365575a278",
    "_SyncObj__deleteEntriesTo": "b7b29988856a66b359c875b7",
    "_SyncObj__changeCluster": "66b42884f9d2dbd1d27daaf1",
    "_SyncObj__doChangeCluster": "247d4d4101b8cd3ce82232ec",
    "_SyncObj__parseChangeClusterRequest": "b2d5d695b12e592fd32dc956",
    "_SyncObj__tryLogCompaction": "c2f8a0ec14cc7312e3ff41a1",
    "_SyncObj__loadDumpFile": "ec66e83905de703bcead2735",
    "_SyncObj__updateClusterConfiguration": "e2de42f3d1a46c962435731d",
    "_SyncObj__onNodeConnected": "2655afb481b4c69b9b33d827",
    "_SyncObj__onNodeDisconnected": "a81c0475ba2218cc4732ab75",
    "_SyncObj__connectedToAnyone": "acd40e9e3ac6c4cc1f4428e7",
    "_SyncObj__doApplyCommand": "1ea7aa506e950d0aecc7aa7e",
    "_SyncObj__callErrCallback": "6037c14ef64c2763bde21707",
    "_SyncObj__onSetCodeVersion": "17b050edb193c8537da50ede",
}
