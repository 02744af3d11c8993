"""An app's live state: its rate survives a change of the configuration, and it is let go when nothing uses it."""

from __future__ import annotations

from gateway.policy.rate_limit import Rate
from gateway.proxy.tenants import Tenant


def test_what_was_taken_of_the_rate_stays_taken_when_the_rate_changes() -> None:
    tenant = Tenant("a")
    tenant.limit(Rate(1.0, 2), 0.0)
    limiter = tenant.limiter
    assert limiter is not None
    assert [limiter.take(0.0) for _ in range(3)] == [True, True, False]
    tenant.limit(Rate(1.0, 1), 0.0)
    assert tenant.limiter is limiter
    assert not limiter.take(0.0)


def test_without_a_rate_there_is_no_limiter() -> None:
    tenant = Tenant("a")
    tenant.limit(Rate(1.0, 1), 0.0)
    tenant.limit(None, 0.0)
    assert tenant.limiter is None


def test_an_app_can_be_let_go_only_when_no_hook_of_it_is_at_a_backend() -> None:
    tenant = Tenant("a")
    tenant.active_hooks = 1
    assert not tenant.leave()
    tenant.active_hooks = 0
    assert tenant.leave()


def test_an_app_counts_alone_until_it_shares_with_other_workers() -> None:
    assert not Tenant("a").is_shared
