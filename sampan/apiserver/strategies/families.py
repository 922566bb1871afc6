"""Which address families a Service has (KEP-563): told from what its author says, what it was, and what the cluster has.

A pure decision on two specs. It comes before addresses are given out, and what is wrong with families, policy and addresses
together is said here, before validation sees the object. A cluster of ours has one family; a Service without a selector and
without an address may name both all the same, because whoever writes its endpoints may have both.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from sampan.kube.errors import Cause, invalid_value
from sampan.kube.validation.services import addresses

Object = dict[str, Any]

_OTHER: Final = {"IPv4": "IPv6", "IPv6": "IPv4"}
_POLICY: Final = "spec.ipFamilyPolicy"
_SEVERAL: Final = "must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified"
_RELEASE: Final = "must be 'SingleStack' to release the secondary {}"


def link_addresses(spec: Object, before: Object | None) -> None:
    """`clusterIP` and `clusterIPs` say the same, and older clients know only the first."""
    if spec.get("type") == "ExternalName":
        return
    if before is None or before.get("type") == "ExternalName":
        if spec.get("clusterIP") and not spec.get("clusterIPs"):
            spec["clusterIPs"] = [spec["clusterIP"]]
        return
    if not spec.get("clusterIP") and before.get("clusterIP"):
        spec["clusterIP"] = before["clusterIP"]
    if not spec.get("clusterIPs") and before.get("clusterIPs"):
        spec["clusterIPs"] = list(before["clusterIPs"])
    same = spec.get("clusterIPs") == before.get("clusterIPs")
    if same and spec.get("clusterIP") and spec["clusterIP"] != before.get("clusterIP"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def settle_families(spec: Object, before: Object | None, own: str) -> list[Cause]:
    """Set `ipFamilies` and `ipFamilyPolicy`, or say why they cannot be told. `own` is the cluster's family."""
    if spec.get("type") == "ExternalName" or _goes_on_preferring(spec, before):
        return []
    headless = spec.get("clusterIP") == "None"
    selectorless = headless and not spec.get("selector")
    policy = spec["ipFamilyPolicy"] = (
        spec.get("ipFamilyPolicy")
        or (before or {}).get("ipFamilyPolicy")
        or ("RequireDualStack" if selectorless else "SingleStack")
    )
    causes: list[Cause] = []
    addresses(spec, causes)
    if causes:
        return causes
    if before is not None:
        _released(spec, before, policy, causes)
    asked, families = spec.get("clusterIPs") or [], list(spec.get("ipFamilies") or ())
    if policy == "SingleStack":
        for values, what in ((asked, "cluster IPs"), (families, "IP families")):
            if len(values) == 2:
                causes.append(invalid_value(_POLICY, policy, _SEVERAL.format(what)))
    for index, address in enumerate(() if headless else asked):
        family = f"IPv{ipaddress.ip_address(address).version}"
        if index < len(families):
            continue
        if family == own:
            families.append(family)
        else:
            text = f"{family} is not configured on this cluster"
            causes.append(invalid_value(f"spec.clusterIPs[{index}]", asked, text))
    if causes:
        return causes
    if selectorless:
        families = families or [own]
        if policy != "SingleStack" and len(families) == 1:
            families.append(_OTHER[families[0]])
        spec["ipFamilies"] = families
        return []
    if policy == "RequireDualStack":
        text = "this cluster is not configured for dual-stack services"
        causes.append(invalid_value(_POLICY, policy, text))
    for index, family in enumerate(families):
        if family != own:
            path = f"spec.ipFamilies[{index}]"
            causes.append(invalid_value(path, family, "not configured on this cluster"))
    spec["ipFamilies"] = families or [own]
    return causes


def _goes_on_preferring(spec: Object, before: Object | None) -> bool:
    """What preferred two families stays with those that it got when it was made, until it is asked to change."""
    return (
        before is not None
        and spec.get("ipFamilyPolicy") == "PreferDualStack"
        and before.get("ipFamilyPolicy") in (None, "PreferDualStack")
        and spec.get("type") == before.get("type")
        and all(spec.get(each) == before.get(each) for each in ("clusterIPs", "ipFamilies"))
    )


def _released(spec: Object, before: Object, policy: str, causes: list[Cause]) -> None:
    """The second address or family goes with a policy of one, and only with it."""
    for field, what in (("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")):
        now, then = spec.get(field) or [], before.get(field) or []
        if policy == "SingleStack":
            if now == then and len(now) > 1:
                spec[field] = now[:1]
        elif 0 < len(now) < len(then):
            causes.append(invalid_value(_POLICY, policy, _RELEASE.format(what)))
