"""Who is asked about a bearer token beside our own service accounts: one source per way that the configuration opens.

What is not configured is not imported: a cluster without an OpenID provider never loads an HTTP client for it.
"""

from __future__ import annotations

from collections.abc import Callable

from sampan.apiserver.auth import Anonymous, Lookup, TokenSource
from sampan.apiserver.security import SecurityConfig


def token_sources(
    config: SecurityConfig, lookup: Lookup, clock: Callable[[], float]
) -> tuple[list[TokenSource], Anonymous]:
    """Sources, cheapest first, and the rule for anonymous requests. Raises BadAuthenticationConfig, BadTokenFile."""
    sources: list[TokenSource] = []
    if config.token_auth_file is not None:
        from sampan.apiserver.static_tokens import StaticTokens

        sources.append(StaticTokens.read(config.token_auth_file))
    if config.enable_bootstrap_token_auth:
        from sampan.apiserver.bootstrap_tokens import BootstrapTokens

        sources.append(BootstrapTokens(lookup, clock))
    anonymous = Anonymous(config.anonymous_auth)
    if config.oidc_issuer_url or config.authentication_config is not None:
        from sampan.apiserver.authentication_config import provider_of_flags, read_config
        from sampan.apiserver.oidc import OIDC

        if config.authentication_config is not None:
            providers, stated = read_config(config.authentication_config)
            anonymous = stated or anonymous
        else:
            providers = [provider_of_flags(config)]
        sources += [OIDC(provider, clock) for provider in providers]
    return sources, anonymous
