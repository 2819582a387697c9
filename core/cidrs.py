"""CIDR lists: as people write them, and as the edge reads them.

The edge writes a viewer's address once as hex digits (`4` and 8 of them, or `6` and 32) and asks whether a prefix of a
list begins it, so a list is compiled to such prefixes.  A length that ends within a digit takes up to 8 prefixes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

Network = IPv4Network | IPv6Network

WIDEST = {4: 8, 6: 16}
"""Shortest prefix, by IP version, that may lead to canary: what is wider is an audience, and has a weight."""


def network(text: str) -> Network:
    """The network that `text` names; one mapped into IPv6 is the IPv4 network that it maps.

    Raises `ValueError` that says what is wrong and how to write it.
    """
    try:
        found = ip_network(text)
    except ValueError:
        try:
            meant = ip_network(text, strict=False)
        except ValueError:
            raise ValueError("is no CIDR; write it as 203.0.113.0/24 or 2001:db8:1::/48") from None
        raise ValueError(f"has digits beyond its length; write {meant}") from None
    if isinstance(found, IPv6Network):
        if found.network_address.scope_id is not None:
            raise ValueError("names an interface; write it without %")
        mapped = found.network_address.ipv4_mapped
        if mapped is not None and found.prefixlen >= 96:
            return IPv4Network((mapped, found.prefixlen - 96))
    return found


def checked(text: str) -> str:
    """`text` as it is, if it names a network."""
    network(text)
    return text


def merged(texts: Sequence[str]) -> list[Network]:
    """The fewest networks that hold the same addresses, none of which overlaps another."""
    networks = [network(text) for text in texts]
    four = collapse_addresses(one for one in networks if isinstance(one, IPv4Network))
    return [*four, *collapse_addresses(one for one in networks if isinstance(one, IPv6Network))]


def compiled(texts: Sequence[str]) -> list[str]:
    """Sorted prefixes of the addresses in `texts`; none begins another."""
    return sorted(prefix for one in merged(texts) for prefix in _prefixes(one))


def size(texts: Sequence[str]) -> int:
    """Bytes of `texts` when compiled, with a space between prefixes."""
    return len(" ".join(compiled(texts)))


def tokens(kind: str, texts: Sequence[str], recorded: frozenset[str] = frozenset()) -> frozenset[str]:
    """What a list opens or shields, in words that compare with those `recorded` of an earlier list.

    A recorded network is among them while it is covered as a whole, a new one unless a recorded one covers it.  So a
    wider list has a token more, and a narrower one has a token less and none more.
    """
    before = merged([token.removeprefix(f"{kind} ") for token in recorded if _is_network(kind, token)])
    now = merged(texts)
    kept = [old for old in before if any(_within(old, new) for new in now)]
    added = [new for new in now if not any(_within(new, old) for old in before)]
    return frozenset(f"{kind} {one}" for one in [*kept, *added])


def _is_network(kind: str, token: str) -> bool:
    try:
        return token.startswith(f"{kind} ") and checked(token.removeprefix(f"{kind} ")) != ""
    except ValueError:
        return False  # hands may have been on it


def _within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _prefixes(one: Network) -> Iterator[str]:
    digits = -(-one.prefixlen // 4)
    for part in one.subnets(new_prefix=4 * digits):
        yield f"{one.version}{part.network_address.packed.hex()[:digits]}"
