"""Token controller: fills Secrets of type `kubernetes.io/service-account-token`, and removes those of accounts that are gone.

Only Secrets that ask for it by their annotation get a token, as Kubernetes does since 1.24; pods use projected ones.
"""

from __future__ import annotations

import base64

from sampan.client.resources import SECRETS, SERVICEACCOUNTS
from sampan.controllers.base import Context, Controller, Key, Object, Requeue, Watch
from sampan.kube.errors import ApiError
from sampan.kube.objects import metadata

TYPE = "kubernetes.io/service-account-token"
NAME = "kubernetes.io/service-account.name"
UID = "kubernetes.io/service-account.uid"
ONLY_TOKENS = f"type={TYPE}"


class TokenController(Controller):
    name = "tokens-controller"
    watches = (
        Watch(SECRETS, fields=ONLY_TOKENS),
        Watch(SERVICEACCOUNTS, keys=lambda self, account: self.secrets_of(account)),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.secrets = self.informer(SECRETS, ONLY_TOKENS)
        self.accounts = self.informer(SERVICEACCOUNTS)

    def secrets_of(self, account: Object) -> list[Key]:
        metadata = account["metadata"]
        return [
            Key(metadata["namespace"], secret["metadata"]["name"])
            for secret in self.secrets.list(metadata["namespace"])
            if marks(secret).get(NAME) == metadata["name"]
        ]

    async def reconcile(self, key: Key) -> Requeue | None:
        secret = self.secrets.get(*key)
        if secret is None:
            return None
        account_name = marks(secret).get(NAME, "")
        account = self.accounts.get(key.namespace, account_name)
        wanted_uid = marks(secret).get(UID)
        if account is None or (wanted_uid and wanted_uid != account["metadata"]["uid"]):
            # Asked of the server, as the informer may only be late.
            if not await self.account_exists(key.namespace, account_name, wanted_uid):
                await self.client.delete(
                    SECRETS, key.name, key.namespace, uid=secret["metadata"]["uid"]
                )
            return None
        data = secret.get("data") or {}
        if {"token", "ca.crt", "namespace"} <= data.keys() and wanted_uid:
            return None
        token = self.context.legacy_token(account, key.name)
        filled = {
            "token": encode(token),
            "ca.crt": encode(self.context.root_ca),
            "namespace": encode(key.namespace),
        }
        metadata = {
            **secret["metadata"],
            "annotations": {**marks(secret), UID: account["metadata"]["uid"]},
        }
        await self.client.update(
            SECRETS, {**secret, "metadata": metadata, "data": {**data, **filled}}
        )
        return None

    async def account_exists(self, namespace: str, name: str, uid: str | None) -> bool:
        try:
            account = await self.client.get(SERVICEACCOUNTS, name, namespace)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return not uid or account["metadata"]["uid"] == uid


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def marks(secret: Object) -> dict[str, str]:
    return metadata(secret).get("annotations") or {}
