"""Checks all YAML files in deploy/ against their schemas, and prints their documents as JSON, by path."""

import json
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

# The oldest version that supports all fields of the file, and the latest one.
KUBERNETES = ["1.30", "1.37"]
COMPOSE = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())


def check(path, document):
    if path.name.startswith("compose"):
        jsonschema.validate(document, COMPOSE)
        return
    for version in KUBERNETES:
        # Strict: unknown fields are errors.
        kubernetes_validate.validate(document, version, strict=True)


found = {}
for path in sorted(Path("deploy").glob("*.yaml")):
    found[str(path)] = list(yaml.safe_load_all(path.read_text()))
    for document in found[str(path)]:
        try:
            check(path, document)
        except Exception as error:
            raise SystemExit(f"{path}: {error}")
json.dump(found, sys.stdout)
