"""A caller: who asks, what for it may, and which tasks it sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from multigraft_adapters.registry.keys import ADMIN, INFER, allows
from multigraft_server.access.limits import Limits


def _nobodys(task: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` is what events call it, if it has a key of its own, which has the id `key_id`; `owner_of`
    tells a task's tenant."""

    name: str | None = None
    scopes: tuple[str, ...] = (ADMIN,)
    tenant: str | None = None
    limits: Limits | None = None
    owner_of: Callable[[str], str | None] = field(default=_nobodys, repr=False)
    key_id: str | None = None

    @property
    def is_restricted(self) -> bool:
        """Whether there may be tasks that it does not see, and must not hear of."""
        return self.tenant is not None or not self._sees_names()

    def may(self, scope: str) -> bool:
        """Whether it has the scope, for some task at least."""
        return allows(self.scopes, scope)

    def may_infer(self, task: str) -> bool:
        """Whether it may ask the task, or the base by its name."""
        return self._is_own(task) and allows(self.scopes, INFER, task)

    def may_infer_base(self, name: str) -> bool:
        """The same of the bare base, which is no tenant's."""
        return allows(self.scopes, INFER, name)

    def sees(self, task: str) -> bool:
        """Whether it may know of the task; `""`, of what is no task's."""
        return self._is_own(task) and (self._sees_names() or allows(self.scopes, INFER, task))

    def salted(self, salt: str) -> str:
        """The salt of its cached prefixes: a tenant's are its own, whatever salt another caller sends."""
        return "\0".join((self.tenant or "", salt)) if self.tenant or salt else ""

    def check_tokens(self) -> None:
        """Raises QuotaError when its tokens are used up."""
        if self.limits is not None:
            self.limits.check_tokens()

    def spend_tokens(self, count: int) -> None:
        """So many tokens were read or written for it."""
        if self.limits is not None:
            self.limits.spend_tokens(count)

    def _is_own(self, task: str) -> bool:
        return self.tenant is None or self.owner_of(task) == self.tenant

    def _sees_names(self) -> bool:
        return any(scope.partition(":")[0] != INFER or scope in (INFER, f"{INFER}:*") for scope in self.scopes)


ANYONE = Caller()
"""Whoever asks a server that has no keys, and who has the server's own key."""
