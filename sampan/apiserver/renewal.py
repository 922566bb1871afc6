"""Renewal: the server's own certificates are replaced before they expire, and taken into use without a restart.

A year's certificate is renewed when a quarter of it is left (`pki.py`); this task sleeps until then. New connections are
served with the new one from the next handshake on, those that are open go on; the admin's kubeconfig is written anew.
`cryptography` is imported for it in a thread, once in nine months.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from sampan.apiserver.pki import RENEW_BEFORE, PKIError, PKIPaths
from sampan.kube.der import read_certificate

log = logging.getLogger(__name__)

NAP = 24 * 3600.0  # seconds: clocks are set, machines are suspended
PAUSE = 3600.0  # until the next attempt when there was no renewing


class Renewal:
    """`ensure` renews what is due, and `renewed` takes it into use. `clock` gives seconds since the epoch."""

    def __init__(
        self,
        pki: PKIPaths,
        ensure: Callable[[], object],
        renewed: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pki = pki
        self.ensure = ensure
        self.renewed = renewed
        self.clock = clock

    def due(self) -> float:
        """When the first of the certificates is to be renewed, in seconds since the epoch; now for one that cannot be read."""
        moments = []
        for pair in (self.pki.apiserver, self.pki.admin, self.pki.kubelet_client):
            try:
                end = read_certificate(pair.crt.read_bytes()).not_after
            except (OSError, ValueError):
                return 0.0
            moments.append((end - RENEW_BEFORE).timestamp())
        return min(moments)

    async def renew(self) -> bool:
        """Renew what is due now. Whether something was, and is in use now."""
        if self.due() > self.clock():
            return False
        try:
            await asyncio.to_thread(self.ensure)
        except (OSError, PKIError) as error:
            log.error("certificates cannot be renewed: %s", error)
            return False
        self.renewed()
        log.info("certificates were renewed; the next are due in %.0f days", self._left() / 86400)
        return self._left() > 0

    async def run(self) -> None:
        """Until cancelled. One task of the server."""
        while True:
            left = self._left()
            if left <= 0:
                # An authority that ends itself soon gives nothing that lasts.
                left = 0.0 if await self.renew() else PAUSE
            await asyncio.sleep(min(left, NAP))

    def _left(self) -> float:
        return self.due() - self.clock()
