"""Writes countries.mmdb and networks.mmdb, the databases that the tests read.

    python3 -m venv venv && venv/bin/pip install mmdb-writer==0.2.7
    venv/bin/python make_countries.py

The networks are those that RFC 5737 and RFC 3849 set aside for examples, and a private one, which no answer may use.
"""

from pathlib import Path

from mmdb_writer import MMDBWriter
from netaddr import IPSet

HERE = Path(__file__).parent
COUNTRIES = {
    "192.0.2.0/25": "DE",
    "192.0.2.128/25": "FR",
    "198.51.100.0/24": "GB",
    "203.0.113.0/24": "US",
    "2001:db8::/33": "JP",
    "2001:db8:8000::/33": "BR",
    "10.0.0.0/8": "AQ",
}


def write(name, kind, records):
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind, description="Example networks")
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(str(HERE / name))


write(
    "countries.mmdb",
    "Example-Country",
    {network: {"country": {"iso_code": code}} for network, code in COUNTRIES.items()},
)
write("networks.mmdb", "Example-ASN", {"192.0.2.0/24": {"autonomous_system_number": 64496}})
