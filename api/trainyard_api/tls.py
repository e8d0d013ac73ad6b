"""HTTPS between operator and agents: who trusts what.

All agents of a run show one certificate, made for that run and signed by nobody else, and whoever speaks to them trusts this
one alone. So no authority is needed, and names say nothing: pods have addresses, which change. The token is asked for as well.
"""

import ssl
from pathlib import Path


def serving(file: Path) -> ssl.SSLContext:
    """What an agent serves with: its key and certificate, in one PEM file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(file)
    return context


def trusting(certificate: str) -> ssl.SSLContext:
    """What one speaks to an agent with: trust in this certificate, and in no other. A key in the same PEM is left alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    return context
