"""Compares a ledger of acknowledged events with the rows of a lake: each event once, with the hash of what was sent.

It shares nothing with Millrace: Arrow's C++ Parquet reader and S3 client, Python's JSON, and another RFC 8785. Usage:
lake_reader.py LEDGER ENDPOINT BUCKET/PREFIX, with the login in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Writes one
JSON object; exit status 0 if it could compare, whatever it found.
"""

import collections
import datetime
import hashlib
import json
import os
import sys

import pyarrow.fs
import pyarrow.parquet
import rfc8785

# The members of an event that have columns of their own, by docs/architecture.md.
FIELDS = [
    "customer_id", "user_agent", "ip", "page", "referrer", "session_id", "element", "product_id", "order_id", "quantity",
    "price", "currency",
]  # fmt: skip
COLUMNS = ["package_id", "type", "id", "event_time", "extra", *FIELDS]
EXAMPLES = 10


def sent(row):
    """The event that a row was made of: what its columns say, unless `extra` has the value as it was sent."""
    extra = json.loads(row["extra"]) if row["extra"] is not None else {}
    inner = extra.pop("event", {})
    event = {"type": row["type"], "package_id": row["package_id"]}
    if row["id"] is not None:
        event["id"] = row["id"]
    event.update(extra)
    time = row["event_time"].astimezone(datetime.timezone.utc)
    form = "%Y-%m-%dT%H:%M:%S"
    milliseconds = f".{time.microsecond // 1000:03d}" if time.microsecond else ""
    event["event"] = {"timestamp": time.strftime(form) + milliseconds + "Z"}
    event["event"].update({name: row[name] for name in FIELDS if row[name] is not None})
    event["event"].update(inner)
    return event


def read_ledger(path):
    """SHA-256 by package_id, of what was acknowledged as good; and what was acknowledged as invalid."""
    good, invalid = {}, set()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["answer"] == "ok":
                good[entry["package_id"]] = bytes.fromhex(entry["sha256"])
            elif entry["answer"] == "invalid":
                invalid.add(entry["package_id"])
    return good, invalid


def main(ledger, endpoint, lake):
    good, invalid = read_ledger(ledger)
    store = pyarrow.fs.S3FileSystem(
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        endpoint_override=endpoint,
        region="us-east-1",
    )
    below = store.get_file_info(pyarrow.fs.FileSelector(lake, recursive=True))
    # What anybody reads who reads year=*/**/*.parquet.
    prefix = lake + "/year="
    files = [info.path for info in below if info.path.startswith(prefix) and info.path.endswith(".parquet")]
    found = collections.Counter()
    altered, rows = [], 0
    for path in files:
        with store.open_input_file(path) as file:
            table = pyarrow.parquet.ParquetFile(file).read(columns=COLUMNS)
        for row in table.to_pylist():
            rows += 1
            identity = row["package_id"]
            found[identity] += 1
            expected = good.get(identity)
            if expected is not None and hashlib.sha256(rfc8785.dumps(sent(row))).digest() != expected:
                altered.append(identity)
    missing = [identity for identity in good if identity not in found]
    doubled = [identity for identity, count in found.items() if count > 1]
    in_both = [identity for identity in invalid if identity in found]
    faults = {"missing": missing, "doubled": doubled, "altered": altered, "invalid_in_lake": in_both}
    report = {name: {"count": len(of), "examples": of[:EXAMPLES]} for name, of in faults.items()}
    report.update(reader=f"pyarrow {pyarrow.__version__}", files=len(files), rows=rows, acknowledged=len(good))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
