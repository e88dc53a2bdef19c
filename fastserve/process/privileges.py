"""privileges: who a worker is: user, group, umask. Given up after the sockets are open, before application code runs.

Room: floor 3. Called by: supervisor.py (checks early), worker.py and zygote.py (drop). Calls: config, errors.

Only workers change who they are. The supervisor stays as it was started: the listeners of later workers must join a
SO_REUSEPORT group, which the kernel allows to the same effective user only, and it signals its workers.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from fastserve.errors import ConfigError
from fastserve.process.config import Config

__all__ = ["Identity", "warn_root"]

logger = logging.getLogger("fastserve")


@dataclass(frozen=True)
class Identity:
    """What workers become. None: what they are already."""

    uid: int | None
    gid: int | None
    name: str | None  # of the user, for its supplementary groups
    umask: int | None

    @classmethod
    def of(cls, config: Config) -> Identity:
        """Names to numbers. ConfigError if there is no such user or group, or if we may not become it."""
        import grp
        import pwd

        uid = gid = name = None
        if config.user is not None:
            try:
                entry = pwd.getpwuid(int(config.user)) if config.user.isdigit() else pwd.getpwnam(config.user)
                uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
            except KeyError:
                if not config.user.isdigit():
                    raise ConfigError(f"user: there is no user {config.user!r}") from None
                uid = int(config.user)
        if config.group is not None:
            try:
                gid = int(config.group) if config.group.isdigit() else grp.getgrnam(config.group).gr_gid
            except KeyError:
                raise ConfigError(f"group: there is no group {config.group!r}") from None
        if os.geteuid() != 0 and (uid not in (None, os.geteuid()) or gid not in (None, os.getegid())):
            raise ConfigError("user and group can be changed by root only", exit_code=3)
        return cls(uid, gid, name, config.umask)

    @property
    def root(self) -> bool:
        """Will workers run as root?"""
        return self.uid == 0 or (self.uid is None and os.geteuid() == 0)

    @property
    def owner(self) -> tuple[int, int]:
        """User and group that their Unix sockets belong to; -1: as they are made."""
        return -1 if self.uid is None else self.uid, -1 if self.gid is None else self.gid

    def assume(self) -> None:
        """Become it, for good. Groups first: without root nobody may change them."""
        if self.umask is not None:
            os.umask(self.umask)
        if os.geteuid() == 0:
            if self.uid is not None and self.name is not None and self.gid is not None:
                os.initgroups(self.name, self.gid)
            elif self.gid is not None or self.uid is not None:
                os.setgroups([] if self.gid is None else [self.gid])
            if self.gid is not None:
                os.setgid(self.gid)
            if self.uid is not None:
                os.setuid(self.uid)
        if self.uid not in (None, 0) and os.getuid() == 0:
            raise ConfigError("the privileges of root could not be given up", exit_code=3)


def warn_root(identity: Identity) -> None:
    """Said once, by the process that the operator started."""
    if identity.root:
        logger.warning("workers run as root: --user NAME makes them give that up")
