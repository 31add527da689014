#!/usr/bin/env python3
"""golden/INDEX.json: every file under golden/ with its size, SHA-256, maker and how to remake it.

    python scripts/golden/index.py            writes it, after files were made
    python scripts/golden/index.py --check    compares sizes and hashes with the files; exit status 1 if they differ

Maker and command are what a file's own `provenance` says. For a file that has none, an entry with `maker` and `remake`
that already stands in INDEX.json is kept. Standard library only.
"""
import hashlib, json, sys
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
INDEX = GOLDEN / "INDEX.json"
OTHER = {INDEX, GOLDEN / "README.md"}


def facts(path):
    return {"path": "golden/" + path.relative_to(GOLDEN).as_posix(), "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def makers(path, known):
    provenance = {}
    if path.suffix == ".json":
        doc = json.loads(path.read_text())
        provenance = doc.get("provenance", {}) if isinstance(doc, dict) else {}
    if "maker" in provenance:
        return {"maker": provenance["maker"], "remake": provenance.get("command", "")}
    return {key: known[key] for key in ("maker", "remake") if key in known}


def main():
    known = {e["path"]: e for e in json.loads(INDEX.read_text())["files"]} if INDEX.exists() else {}
    files = sorted(p for p in GOLDEN.rglob("*") if p.is_file() and p not in OTHER)
    entries = [facts(p) for p in files]
    if "--check" in sys.argv:
        strip = lambda e: {k: e[k] for k in ("path", "bytes", "sha256")}
        here = {e["path"]: e for e in entries}
        bad = [p for p in sorted({*known, *here}) if p not in known or p not in here or strip(known[p]) != here[p]]
        for path in bad:
            print("not in INDEX.json:" if path not in known else "missing:" if path not in here else "differs:", path)
        sys.exit(bool(bad))
    for path, entry in zip(files, entries):
        entry |= makers(path, known.get(entry["path"], {}))
        if "maker" not in entry:
            print("no maker known:", entry["path"])
    total = sum(e["bytes"] for e in entries)
    INDEX.write_text(json.dumps({"total_bytes": total, "files": entries}, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(entries)} files, {total} bytes")


if __name__ == "__main__":
    main()
